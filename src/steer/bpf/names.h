/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Port names: the number that programs in a container know for a port that is another one outside (31000:80). Looking one up, and
 * telling whether an address is one at which a container reaches itself.
 */
#pragma once

#include <bpf/bpf_endian.h>

#include "spaces.h"

#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_MPTCP 262		/* include/uapi/linux/in.h */

#define ADDRESS_CARRIED 1	/* maps.h */
#define MAX_ADDRESSES 16384	/* maps.h */

/* The host's addresses, as the data path has them (maps.h): IPv4 as ::ffff:a.b.c.d. */
struct address {
	__u32 word[4];
};

struct whose {
	__u32 kind;
	__u32 way[2];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct address);
	__type(value, struct whose);
} addresses SEC(".maps");

/* A number of a container's, and what it stands for: of an inside number the port that sockets really have, and the way back. */
enum way { TO_OUTSIDE, TO_INSIDE };

struct name_key {
	__u32 slot;
	__u16 port;
	__u8 udp;
	__u8 way;
};

/* A port is leased to one container, so that there are at most as many names as ports, of each protocol and either way. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4 * NUMBERS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct name_key);
	__type(value, __u32);
} names SEC(".maps");

_Static_assert(sizeof(struct name_key) == 8 && sizeof(struct address) == 16, "names.rs");

/* A number that a socket's container has a name for. */
struct named {
	__u32 slot;
	__u32 udp;
	__u16 port;		/* what it stands for; 0: it has none, the number is meant itself */
};

/* Looks up the number in `user_port`. A ping socket's number is no port. */
static __always_inline struct named look_up(struct bpf_sock_addr *ctx, enum way way)
{
	__u32 protocol = ctx->protocol, *found;
	struct named named = {};
	struct name_key key = {};
	struct space *space;

	key.port = bpf_ntohs(ctx->user_port);
	if (!key.port || (protocol != PROTO_TCP && protocol != PROTO_UDP && protocol != PROTO_MPTCP))
		return named;
	space = space_of(bpf_get_netns_cookie(ctx));
	if (!space || space->slot == HOST)
		return named;
	key.slot = named.slot = space->slot;
	key.udp = named.udp = protocol == PROTO_UDP;
	key.way = way;
	found = bpf_map_lookup_elem(&names, &key);
	if (found)
		named.port = *found;
	return named;
}

/* Do packets to this number go to another container? Whoever answers a datagram from there means that one, not itself. */
static __always_inline int is_anothers(struct bpf_sock_addr *ctx, __u32 slot)
{
	__u32 key = UDP_HALF | bpf_ntohs(ctx->user_port);
	const volatile __u64 *word = bpf_map_lookup_elem(&ports, &key);
	__u32 to = word ? *word & 0xffff : HOST;

	return to != HOST && to != slot;
}

static __always_inline int is_carried(const struct address *address)
{
	struct whose *whose = bpf_map_lookup_elem(&addresses, address);

	return whose && whose->kind == ADDRESS_CARRIED;
}

/* Does a container reach itself at this address? 0.0.0.0 means 127.0.0.1 to connect(). */
static __always_inline int is_own4(__u32 ip)
{
	struct address address = { .word = { 0, 0, bpf_htonl(0xffff), ip } };

	return !ip || (bpf_ntohl(ip) >> 24) == 127 || is_carried(&address);
}

static __always_inline int is_own6(const struct address *ip)
{
	if (!ip->word[0] && !ip->word[1] && ip->word[2] == bpf_htonl(0xffff))
		return is_own4(ip->word[3]);
	if (!ip->word[0] && !ip->word[1] && !ip->word[2] && (!ip->word[3] || ip->word[3] == bpf_htonl(1)))
		return 1;
	return is_carried(ip);
}
