/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * What leaves the host: to a group, to a gateway that is known, or where the host's routes say; and the answer to the sender
 * when they lead nowhere.
 */
#pragma once

#include "answer.h"
#include "group.h"


/* Is it in one of the networks that the FIB is asked for, although the gateway is known? */
static __always_inline int beside_v4(const struct host *h, __u32 dst)
{
#pragma unroll
	for (int i = 0; i < BESIDE_V4; i++)
		if (!((dst ^ h->v4_beside[i].net) & h->v4_beside[i].mask))
			return 1;
	return 0;
}

static __always_inline int within_v6(const union addr *dst, const union addr *net, const union addr *mask)
{
	return !((dst->d[0] ^ net->d[0]) & mask->d[0] || (dst->d[1] ^ net->d[1]) & mask->d[1]);
}

static __always_inline int beside_v6(const struct host *h, const union addr *dst)
{
#pragma unroll
	for (int i = 0; i < BESIDE_V6; i++)
		if (within_v6(dst, &h->v6_beside[i].net, &h->v6_beside[i].mask))
			return 1;
	return 0;
}

/* Is it not on the uplink's network? */
static __always_inline int beyond_v6(const struct host *h, const union addr *dst)
{
	return !within_v6(dst, &h->v6_net, &h->v6_mask);
}

/* Only ever on the link, whatever the routes to other places are. */
static __always_inline int is_link_local(const union addr *dst)
{
	return (dst->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Do the facts tell the way there? Mostly there is nothing beside, and one look at the flags says so. */
static __always_inline int is_known_v4(const struct host *h, __u32 dst)
{
	__u32 known = h->flags & (HOST_NEXTHOP_V4 | HOST_BESIDE_V4);

	return known == HOST_NEXTHOP_V4 || (known & HOST_NEXTHOP_V4 && !beside_v4(h, dst));
}

static __always_inline int is_known_v6(const struct host *h, const union addr *dst)
{
	__u32 known = h->flags & (HOST_NEXTHOP_V6 | HOST_BESIDE_V6);

	return known == HOST_NEXTHOP_V6 || (known & HOST_NEXTHOP_V6 && !beside_v6(h, dst));
}

/* Out of a device, by the host's routes through it. The kernel answers with an ICMP error only what was addressed to this host. */
static __always_inline int by_device(struct __sk_buff *skb, __u32 device)
{
	bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_neigh(device, 0, 0, 0);
}

#define AT_V4(field) (ETH_HLEN + __builtin_offsetof(struct iphdr, field))
#define AT_V6(field) (ETH_HLEN + __builtin_offsetof(struct ipv6hdr, field))

/* The question to the host's routes: as a socket of the host would put it that is bound to the packet's source. */
static __always_inline int question(struct __sk_buff *skb, __u32 how, struct bpf_fib_lookup *q)
{
	long failed;

	if (how & IS_V6) {
		q->family = INET6;
		failed = bpf_skb_load_bytes(skb, AT_V6(nexthdr), &q->l4_protocol, 1);
		failed |= bpf_skb_load_bytes(skb, ETH_HLEN, &q->flowinfo, 4);
		q->flowinfo &= bpf_htonl(0x0fffffff);
		failed |= bpf_skb_load_bytes(skb, AT_V6(saddr), q->ipv6_src, 16);
		failed |= bpf_skb_load_bytes(skb, AT_V6(daddr), q->ipv6_dst, 16);
	} else {
		q->family = INET;
		failed = bpf_skb_load_bytes(skb, AT_V4(protocol), &q->l4_protocol, 1);
		failed |= bpf_skb_load_bytes(skb, AT_V4(tos), &q->tos, 1);
		failed |= bpf_skb_load_bytes(skb, AT_V4(saddr), &q->ipv4_src, 4);
		failed |= bpf_skb_load_bytes(skb, AT_V4(daddr), &q->ipv4_dst, 4);
	}
	if (how & PARSED) {
		/* a later fragment has its datagram's ports here, and an extension header is no transport */
		struct packet *p = packet(OUTER);

		if (p && has_ports(p->proto)) {
			q->l4_protocol = p->proto;
			q->sport = bpf_htons(p->sport);
			q->dport = bpf_htons(p->dport);
		}
	} else {
		bpf_skb_load_bytes(skb, L4(how), &q->sport, 2);
		bpf_skb_load_bytes(skb, L4(how) + 2, &q->dport, 2);
	}
	return failed ? -1 : 0;
}

#define TOO_SMALL 0xffffffff
#define TO_ALL 100		/* by_routes: it is for all on another network than the uplink's first one */

/* The device of that network, which the kernel's local table names whatever the rules are. 0: it is none of the host's any more;
 * TOO_SMALL: it takes no packet as large. */
APART __u32 device_of_all(struct __sk_buff *skb, __u32 how)
{
	struct whose *all;
	union addr a;
	__u32 dst;

	if (bpf_skb_load_bytes(skb, AT_V4(daddr), &dst, 4) < 0)
		return 0;
	map_v4(&a, dst);
	all = bpf_map_lookup_elem(&addresses, &a);
	if (!all)
		return 0;
	return largest(skb, L4(how), how & IS_TCP) > all->mtu ? TOO_SMALL : all->device;
}

/* Where the host's routes lead, of which there are more than the uplink's: the FIB is asked for each packet, with rules, several
 * next hops and all. */
APART int by_fib(struct __sk_buff *skb, __u32 n, __u32 how)
{
	struct bpf_redir_neigh nh = {};
	struct host *h = host_facts();
	struct bpf_fib_lookup q __attribute__((aligned(8))) = {};
	__u64 *to = (__u64 *)q.ipv6_dst, dst[2];
	__u32 bytes, device;
	long found;

	if (!h || question(skb, how, &q) < 0)
		return DROP;
	dst[0] = to[0];
	dst[1] = to[1];
	bytes = largest(skb, L4(how), how & IS_TCP);
	q.tot_len = bytes;
	q.ifindex = h->fib;
	found = bpf_fib_lookup(skb, &q, sizeof(q), 0);
	if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		/* before Linux 5.14 it does not say how much the route takes */
		return too_big(skb, n, how, q.tot_len < bytes ? q.tot_len : 0);
	if (found == BPF_FIB_LKUP_RET_BLACKHOLE)
		return drop(n, R_UNREACHABLE);
	if (found == BPF_FIB_LKUP_RET_UNREACHABLE)
		return nowhere(skb, n, how, how & IS_V6 ? 3 : 1);
	if (found == BPF_FIB_LKUP_RET_PROHIBIT)
		return nowhere(skb, n, how, how & IS_V6 ? 1 : 13);
	if (found == BPF_FIB_LKUP_RET_NOT_FWDED)
		return !(how & IS_V6) && is_other_broadcast(dst[0]) ? TO_ALL : nowhere(skb, n, how, 0);
	left(n, skb, how);
	/* somebody changed the device that is asked from, or the route wraps packets up in others */
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return by_device(skb, h->uplink);
	/* the flow is one of the uplink's qdisc */
	if (h->flags & HOST_FAIR && q.ifindex != h->uplink)
		skb->priority = 0;
	nh.nh_family = q.family;
	if (q.family == INET)
		nh.ipv4_nh = q.ipv4_dst;
	else
		__builtin_memcpy(nh.ipv6_nh, q.ipv6_dst, 16);
	device = q.ifindex;
	/* What is asked of a neighbour that does not answer has to be told, which the kernel does if it looks for the way itself. It
	 * does not ask for ports then, and may find another. */
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		q = (struct bpf_fib_lookup){};
		if (question(skb, how & ~PARSED, &q) < 0)
			return DROP;
		q.sport = 0;
		q.dport = 0;
		q.ifindex = h->fib;
		if (bpf_fib_lookup(skb, &q, sizeof(q), 0) == BPF_FIB_LKUP_RET_NO_NEIGH && q.ifindex == device &&
		    (q.family == INET ? q.ipv4_dst == nh.ipv4_nh : q.ipv6_dst[3] == nh.ipv6_nh[3]))
			return by_device(skb, device);
	}
	return bpf_redirect_neigh(device, &nh, sizeof(nh), 0);
}

/* Where there is more than the uplink, the FIB knows. */
static __always_inline int by_routes(struct __sk_buff *skb, const struct host *h, __u32 n, __u32 how)
{
	if (h->fib)
		return by_fib(skb, n, how);
	left(n, skb, how);
	return by_device(skb, h->uplink);
}

/* Out of the host. Giving the next hop spares redirect_neigh its route lookup, 5 to 7 % of a small packet, and takes away its
 * way to tell the sender that the next hop does not answer. So only a gateway's is given, which mostly does, and ASK says not to. */
static __always_inline int to_world_v4(struct __sk_buff *skb, const struct host *h, __u32 n, __u32 how, __u32 dst)
{
	struct bpf_redir_neigh nh = {.nh_family = INET};

	if (h->flags & HOST_FAIR)
		skb->priority = UPLINK_FLOW(n);
	if (is_group_v4(h, dst)) {
		left(n, skb, how);
		return to_many(skb, n, 0, h->uplink);
	}
	if (!is_known_v4(h, dst)) {
		int done = !h->fib && is_other_broadcast(dst) ? TO_ALL : by_routes(skb, h, n, how);
		__u32 device;

		if (done != TO_ALL)
			return done;
		/* nobody is told what becomes of what is for all (RFC 1122 3.2.2) */
		device = device_of_all(skb, how);
		if (!device)
			return drop(n, R_UNREACHABLE);
		if (device == TOO_SMALL)
			return drop(n, R_OVERSIZE);
		if (device != h->uplink && h->flags & HOST_FAIR)
			skb->priority = 0;
		left(n, skb, how);
		return to_many(skb, n, 0, device);
	}
	left(n, skb, how);
	if (how & ASK || !((dst ^ h->v4_net) & h->v4_mask))
		return by_device(skb, h->uplink);
	nh.ipv4_nh = h->v4_gw;
	return bpf_redirect_neigh(h->uplink, &nh, sizeof(nh), 0);
}

static __always_inline int to_world_v6(struct __sk_buff *skb, const struct host *h, __u32 n, __u32 how,
				       const union addr *dst)
{
	struct bpf_redir_neigh nh = {.nh_family = INET6};

	if (h->flags & HOST_FAIR)
		skb->priority = UPLINK_FLOW(n);
	if (is_group_v6(dst)) {
		left(n, skb, how);
		return to_many(skb, n, 1, h->uplink);
	}
	if (!is_known_v6(h, dst) && !is_link_local(dst))
		return by_routes(skb, h, n, how);
	left(n, skb, how);
	if (how & ASK || is_link_local(dst) || !beyond_v6(h, dst))
		return by_device(skb, h->uplink);
	__builtin_memcpy(nh.ipv6_nh, &h->v6_gw, sizeof(h->v6_gw));
	return bpf_redirect_neigh(h->uplink, &nh, sizeof(nh), 0);
}

/* Is it certain that it goes out of the uplink? Then what is larger than that takes is refused before it waits its turn. */
static __always_inline int by_uplink(const struct host *h, const struct packet *p)
{
	if (!h->fib || is_group(h, p))
		return 1;
	return p->v6 ? is_link_local(&p->dst) || is_known_v6(h, &p->dst) : is_known_v4(h, p->dst.w[3]);
}

/* How a packet leaves that was looked at the long way. */
static __always_inline __u32 leaving_slowly(const struct host *h, const struct packet *p)
{
	__u32 mute = is_error(p) || p->frag == FRAG_LATER || is_group(h, p);

	return leaving(p->end - 8, p->proto == PROTO_TCP, PARSED | ASK | (p->v6 ? IS_V6 : 0) | (mute ? MUTE : 0));
}

/* A frame larger than the uplink takes, or one that would be cut into such frames: some drivers hang on it, so it ends
 * here. */
static __always_inline int oversize(struct __sk_buff *skb, const struct host *h, __u32 l4, __u32 tcp)
{
	if (skb->len <= h->mtu + ETH_HLEN)
		return 0;
	return largest(skb, l4, tcp) > h->mtu;
}

/* No gateway, and not a neighbour: nobody to hand it to. */
static __always_inline int unreachable_v4(const struct host *h, __u32 dst)
{
	return is_known_v4(h, dst) && !h->v4_gw && (dst ^ h->v4_net) & h->v4_mask && !is_group_v4(h, dst);
}

static __always_inline int unreachable_v6(const struct host *h, const union addr *dst)
{
	return is_known_v6(h, dst) && !h->v6_gw.d[0] && !is_group_v6(dst) && !is_link_local(dst) && beyond_v6(h, dst);
}
