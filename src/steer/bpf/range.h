/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * net.ipv4.ip_local_port_range of a container: root inside may narrow it, and never widen it beyond the container's block. Connections
 * from there would be dropped on their way out, and who has them would not know why.
 *
 * The kernel tells this hook nothing about whose setting is written, which is that of the namespace whose process opened the file:
 * it is taken for the writer's own. Who writes from another one harms himself, as far as the data path lets him.
 */
#pragma once

#include <bpf/bpf_core_read.h>

#include "spaces.h"
#include "tenants.h"

#define RANGE_NAME "net/ipv4/ip_local_port_range"
#define RANGE_TEXT 32		/* two numbers and what may stand around them; a power of 2 */

struct net {
	__u64 net_cookie;
} __attribute__((preserve_access_index));

struct nsproxy {
	struct net *net_ns;
} __attribute__((preserve_access_index));

struct task_struct {
	struct nsproxy *nsproxy;
} __attribute__((preserve_access_index));

/* The first number of a text, which may be octal or hexadecimal as for proc_dointvec: its length, and 0 if there is none. */
static __always_inline __u32 read_port(const char *text, __u32 *port)
{
	unsigned long number = 0;
	long length = bpf_strtoul(text, RANGE_TEXT, 0, &number);

	if (length <= 0 || length >= RANGE_TEXT || number >= NUMBERS)
		return 0;
	*port = number;
	return length;
}

static __always_inline int is_in_block(__u32 first, __u32 last, __u32 slot)
{
	struct tenant *tenant = bpf_map_lookup_elem(&tenants, &slot);

	return tenant && tenant->begin && first <= last && first >= tenant->begin &&
	       last < tenant->begin + (1U << (tenant->size & 31));
}

static __always_inline __u64 writers_cookie(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, nsproxy, net_ns, net_cookie);
}

static __always_inline int names_the_range(struct bpf_sysctl *ctx)
{
	char name[sizeof(RANGE_NAME) + 1] = {};

	if (bpf_sysctl_get_name(ctx, name, sizeof(name), 0) != sizeof(RANGE_NAME) - 1)
		return 0;
	for (__u32 i = 0; i < sizeof(RANGE_NAME) - 1; i++)
		if (name[i] != RANGE_NAME[i])
			return 0;
	return 1;
}

/* May the writer give the range this value? */
static __always_inline int may_be_range(struct bpf_sysctl *ctx)
{
	struct space *space = space_of(writers_cookie());
	char text[2 * RANGE_TEXT] = {};	/* the second number is looked for in as much text, wherever that begins */
	__u32 first = 0, last = 0, length;

	if (!space || space->slot == HOST)
		return 1;
	if (bpf_sysctl_get_new_value(ctx, text, RANGE_TEXT) < 0)
		return 0;
	length = read_port(text, &first);
	return length && read_port(text + (length & (RANGE_TEXT - 1)), &last) && is_in_block(first, last, space->slot);
}
