/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * The programs on the container's own devices, in its namespace. Part of steer.bpf.c, whose short looks at plain packets they
 * use.
 */
#pragma once

/* Has this namespace a socket that would take a packet to `dst`:`dport`? */
static __noinline int listens(struct __sk_buff *skb, struct packet *p)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	__u32 size;

	if (p->v6) {
		__builtin_memcpy(t.ipv6.saddr, &p->src, 16);
		__builtin_memcpy(t.ipv6.daddr, &p->dst, 16);
		t.ipv6.sport = bpf_htons(p->sport);
		t.ipv6.dport = bpf_htons(p->dport);
		size = sizeof(t.ipv6);
	} else {
		t.ipv4.saddr = p->src.w[3];
		t.ipv4.daddr = p->dst.w[3];
		t.ipv4.sport = bpf_htons(p->sport);
		t.ipv4.dport = bpf_htons(p->dport);
		size = sizeof(t.ipv4);
	}
	if (p->proto == PROTO_TCP)
		sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else if (p->proto == PROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else
		return 0;
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

PROGRAM(inner_lo)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 slot = skb->tc_classid, v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	struct slot *s = slot_of(slot);
	struct packet *p, *whose;
	__be16 *port = 0;
	__u8 proto = 0;

	if (!s || skb->mark == KEEP || (!v6 && skb->protocol != bpf_htons(ETH_P_IP)))
		return PASS;
	if (v6) {
		struct ipv6hdr *ip = plain_v6(data, end);

		if (ip) {
			port = (__be16 *)(ip + 1);
			proto = ip->nexthdr;
		}
	} else {
		struct iphdr *ip = plain_v4(data, end);

		if (ip) {
			port = (__be16 *)(ip + 1);
			proto = ip->protocol;
		}
	}
	if (port && port_slot(bpf_ntohs(port[1]), proto) == slot)
		return PASS;
	p = parse(skb, ETH_HLEN, v6, OUTER);
	if (!p)
		return PASS;
	if (p->frag == FRAG_LATER)
		return fragment_leaves_lo(slot, s->epoch) ? bpf_redirect(s->inner, 0) : PASS;
	whose = p;
	if (is_error(p)) {
		__u16 sport;
		union addr src;

		/* about a packet that one of its own sockets sent: look it up the other way round */
		whose = parse(skb, p->end, v6, QUOTED);
		if (!whose || whose->frag == FRAG_LATER)
			return PASS;
		src = whose->src;
		sport = whose->sport;
		whose->src = whose->dst;
		whose->dst = src;
		whose->sport = whose->dport;
		whose->dport = sport;
	}
	if (!has_ports(whose->proto) || port_slot(whose->dport, whose->proto) == slot || listens(skb, whose))
		return PASS;
	if (is_loopback(&whose->dst) && !(s->flags & SLOT_HOST_LOOPBACK) && !port_slot(whose->dport, whose->proto))
		return PASS;
	if (p->frag)
		fragment_left_lo(slot, s->epoch, port_slot(whose->dport, whose->proto));
	return bpf_redirect(s->inner, 0);
}

/* Is a packet on the container's device for an address that only lo has? IPv6 takes it nowhere else, and a socket that is bound
 * to lo neither. */
static __always_inline int for_lo(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = data + ETH_HLEN;

		return (void *)(ip + 1) <= end && v4_is_loopback(ip->daddr);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = data + ETH_HLEN;
		__u32 *dst = (__u32 *)&ip->daddr;

		return (void *)(ip + 1) <= end && !dst[0] && !dst[1] && !dst[2] && dst[3] == bpf_htonl(1);
	}
	return 0;
}

PROGRAM(inner_eth)
{
	__u8 zero[ETH_ALEN] = {};

	if (!for_lo(skb))
		return PASS;
	skb->mark = KEEP;
	if (bpf_skb_store_bytes(skb, 0, zero, sizeof(zero), 0) < 0)
		return DROP;
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}
