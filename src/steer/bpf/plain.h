/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Packets that need no parsing: TCP and UDP without options, extension headers or fragments, in the linear part.
 */
#pragma once

#include "leave.h"

#define L4_V4 (ETH_HLEN + sizeof(struct iphdr))
#define L4_V6 (ETH_HLEN + sizeof(struct ipv6hdr))

static __always_inline int common(__u8 proto)
{
	return proto == PROTO_TCP || proto == PROTO_UDP;
}

/* Does this begin a connection? */
static __always_inline __u32 begins(__u8 proto, const void *l4, const void *end)
{
	const struct tcphdr *tcp = l4;

	return proto == PROTO_TCP && (const void *)(tcp + 1) <= end && tcp->syn && !tcp->ack;
}

/* Is it the first packet of its container for some milliseconds? */
static __always_inline __u32 is_due(struct slot *s)
{
	__u64 now = bpf_jiffies64();

	if (s->asked == now)
		return 0;
	s->asked = now;
	return 1;
}

/* How a plain packet leaves. Of a gateway that does not answer hears whoever begins a connection, and of all others one each tick
 * of the clock: nothing but asking the kernel for the way of each packet tells that it answers no more. */
static __always_inline __u32 leaving_plainly(struct slot *s, __u8 proto, const void *l4, const void *end, __u32 v6)
{
	__u32 ask = begins(proto, l4, end) || is_due(s) ? ASK : 0;

	return leaving(v6 ? L4_V6 : L4_V4, proto == PROTO_TCP, ask | (v6 ? IS_V6 : 0));
}

static __always_inline struct iphdr *plain_v4(void *data, void *end)
{
	struct iphdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) + 4 > end || *(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff) ||
	    !common(ip->protocol))
		return 0;
	return ip;
}

static __always_inline struct ipv6hdr *plain_v6(void *data, void *end)
{
	struct ipv6hdr *ip = data + ETH_HLEN;

	if ((void *)(ip + 1) + 4 > end || ip->version != 6 || !common(ip->nexthdr))
		return 0;
	return ip;
}
