/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * ICMP errors to a container about a packet it sent, for what a program of the host would be told by an errno. They come from
 * the host's own address and never leave the host.
 */
#pragma once

#include "leaving.h"

#define QUOTE_V4 40		/* an IP header and that of TCP */
#define QUOTE_V4_LONG 80	/* with all the options there may be */
#define QUOTE_V6 60
#define QUOTE_V6_LONG 120
#define SMALLEST_V4 576		/* what every route takes (RFC 791), and of IPv6 */
#define SMALLEST_V6 1280

struct icmp {
	__u8 type, code;
	__u16 sum;
	__u32 rest;		/* of a too big: the size that is not */
};

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Leaves `quoted` bytes of the packet (filled up, if it has less), and room for `head` bytes where its Ethernet header is: zeros.
 * Returns where that room begins; 0: it cannot be. */
static __always_inline void *make_room(struct __sk_buff *skb, __u32 head, __u32 quoted)
{
	void *data;

	if (bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) < 0 || bpf_skb_change_head(skb, head - ETH_HLEN, 0) < 0 ||
	    bpf_skb_pull_data(skb, head + quoted) < 0)
		return 0;
	data = (void *)(long)skb->data;
	if (data + head + quoted > (void *)(long)skb->data_end)
		return 0;
	/* the last of it is where that header was */
	__builtin_memset(data + head - ETH_HLEN, 0, ETH_HLEN);
	return data;
}

static __always_inline int send_back(struct __sk_buff *skb, __u32 n)
{
	struct slot *s = running(n);

	if (!s)
		return DROP;
	received(n, skb, 0, 0);
	return bpf_redirect(s->ifindex, 0);
}

static __always_inline int answer_v4(struct __sk_buff *skb, __u32 n, __u32 code, __u32 mtu, __u32 quoted)
{
	struct ethhdr *eth = make_room(skb, ETH_HLEN + sizeof(struct iphdr) + sizeof(struct icmp), quoted);
	struct iphdr *ip = (void *)(eth + 1);
	struct icmp *icmp = (void *)(ip + 1);
	struct host *h = host_facts();

	if (!eth || !h)
		return DROP;
	__builtin_memcpy(eth->h_dest, h->mac, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IP);
	ip->version = 4;
	ip->ihl = 5;
	ip->tos = 0xc0;
	ip->tot_len = bpf_htons(sizeof(*ip) + sizeof(*icmp) + quoted);
	ip->ttl = 64;
	ip->protocol = PROTO_ICMP;
	ip->saddr = h->v4;
	__builtin_memcpy(&ip->daddr, (void *)(icmp + 1) + __builtin_offsetof(struct iphdr, saddr), 4);
	ip->check = folded(bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0));
	icmp->type = 3;
	icmp->code = code;
	icmp->sum = 0;
	icmp->rest = bpf_htonl(mtu);
	icmp->sum = folded(bpf_csum_diff(0, 0, (__be32 *)icmp, sizeof(*icmp) + quoted, 0));
	return send_back(skb, n);
}

static __always_inline int answer_v6(struct __sk_buff *skb, __u32 n, __u32 code, __u32 mtu, __u32 quoted)
{
	__u32 length = bpf_htonl(sizeof(struct icmp) + quoted), next = bpf_htonl(PROTO_ICMP6), sum;
	struct ethhdr *eth = make_room(skb, ETH_HLEN + sizeof(struct ipv6hdr) + sizeof(struct icmp), quoted);
	struct ipv6hdr *ip = (void *)(eth + 1);
	struct icmp *icmp = (void *)(ip + 1);
	struct host *h = host_facts();

	if (!eth || !h)
		return DROP;
	__builtin_memcpy(eth->h_dest, h->mac, ETH_ALEN);
	eth->h_proto = bpf_htons(ETH_P_IPV6);
	ip->version = 6;
	ip->payload_len = bpf_htons(sizeof(*icmp) + quoted);
	ip->nexthdr = PROTO_ICMP6;
	ip->hop_limit = 64;
	__builtin_memcpy(&ip->saddr, &h->v6, 16);
	__builtin_memcpy(&ip->daddr, (void *)(icmp + 1) + __builtin_offsetof(struct ipv6hdr, saddr), 16);
	icmp->type = mtu ? 2 : 1;
	icmp->code = code;
	icmp->sum = 0;
	icmp->rest = bpf_htonl(mtu);
	/* with the pseudo header of RFC 8200 8.1 */
	sum = bpf_csum_diff(0, 0, (__be32 *)&ip->saddr, 32, 0);
	sum = bpf_csum_diff(0, 0, &length, sizeof(length), sum);
	sum = bpf_csum_diff(0, 0, &next, sizeof(next), sum);
	icmp->sum = folded(bpf_csum_diff(0, 0, (__be32 *)icmp, sizeof(*icmp) + quoted, sum));
	return send_back(skb, n);
}

APART int answer(struct __sk_buff *skb, __u32 n, __u32 how, __u32 code, __u32 mtu)
{
	if (how & MUTE)
		return DROP;
	if (how & IS_V6) {
		if (L4(how) == ETH_HLEN + sizeof(struct ipv6hdr))
			return answer_v6(skb, n, code, mtu, QUOTE_V6);
		return answer_v6(skb, n, code, mtu, QUOTE_V6_LONG);
	}
	if (L4(how) == ETH_HLEN + sizeof(struct iphdr))
		return answer_v4(skb, n, code, mtu, QUOTE_V4);
	return answer_v4(skb, n, code, mtu, QUOTE_V4_LONG);
}

/* No route leads where the packet is to go, or one that refuses it with this code. */
static __always_inline int nowhere(struct __sk_buff *skb, __u32 n, __u32 how, __u32 code)
{
	drop(n, R_UNREACHABLE);
	return answer(skb, n, how, code, 0);
}

/* The route takes packets of `mtu` bytes at most; 0: of an unknown size. */
static __always_inline int too_big(struct __sk_buff *skb, __u32 n, __u32 how, __u32 mtu)
{
	drop(n, R_OVERSIZE);
	if (how & IS_V6)
		return answer(skb, n, how, 0, mtu ? mtu : SMALLEST_V6);
	return answer(skb, n, how, 4, mtu ? mtu : SMALLEST_V4);
}
