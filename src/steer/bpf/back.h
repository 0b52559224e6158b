/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Whether the host would take a packet from where it came: its `rp_filter`, which looks for the way back (RFC 3704). IPv6 has none.
 */
#pragma once

#include "leave.h"

static __always_inline __u32 looks_at_sources(const struct __sk_buff *skb, const struct host *h)
{
	return (skb->ifindex == h->uplink ? h->flags >> HOST_SOURCES : skb->tc_classid) & SOURCES_MASK;
}

/* The question is the host's own (__fib_validate_source, net/ipv4/fib_frontend.c): for an answer, from what was addressed; for a packet
 * to `many`, from nobody. `l4`: where its ports are, 0 for none. */
APART int leads_elsewhere(struct __sk_buff *skb, __u32 start, __u32 l4, __u32 many)
{
	/* shorter than any MTU */
	struct bpf_fib_lookup q __attribute__((aligned(8))) = {.family = INET, .tot_len = 1};
	struct host *h = host_facts();
	long found, failed;

	if (!h)
		return 1;
	failed = bpf_skb_load_bytes(skb, start + __builtin_offsetof(struct iphdr, protocol), &q.l4_protocol, 1);
	failed |= bpf_skb_load_bytes(skb, start + __builtin_offsetof(struct iphdr, tos), &q.tos, 1);
	failed |= bpf_skb_load_bytes(skb, start + __builtin_offsetof(struct iphdr, saddr), &q.ipv4_dst, 4);
	if (!many)
		failed |= bpf_skb_load_bytes(skb, start + __builtin_offsetof(struct iphdr, daddr), &q.ipv4_src, 4);
	if (l4 && has_ports(q.l4_protocol)) {
		failed |= bpf_skb_load_bytes(skb, l4, &q.dport, 2);
		failed |= bpf_skb_load_bytes(skb, l4 + 2, &q.sport, 2);
	}
	if (failed)
		return 1;
	q.ifindex = h->fib;
	found = bpf_fib_lookup(skb, &q, sizeof(q), 0);
	if (found == BPF_FIB_LKUP_RET_BLACKHOLE || found == BPF_FIB_LKUP_RET_UNREACHABLE ||
	    found == BPF_FIB_LKUP_RET_PROHIBIT || found == BPF_FIB_LKUP_RET_NOT_FWDED)
		return 1;
	/* a route that wraps packets up does not say where it leads; before Linux 5.14 it is the packet whose length counts */
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH &&
	    found != BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return 0;
	return looks_at_sources(skb, h) == SOURCES_STRICT && q.ifindex != skb->ifindex;
}

/* Does the host refuse an IPv4 source for the device that its packet came in by? */
static __always_inline int strays(struct __sk_buff *skb, const struct host *h, __u32 src, __u32 start, __u32 l4,
				  __u32 many)
{
	if (!looks_at_sources(skb, h))
		return 0;
	/* mostly the facts tell that the way back is the uplink */
	if (skb->ifindex == h->uplink && is_known_v4(h, src) && !unreachable_v4(h, src))
		return 0;
	return leads_elsewhere(skb, start, l4, many);
}
