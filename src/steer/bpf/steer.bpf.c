/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * The data path: per packet, whose is it? Eight programs, shared by all containers.
 *
 *   from_wire       uplink ingress         leased port -> container, else the host's stack; on other devices, too
 *   from_tunnel     other devices' ingress the same where frames have no Ethernet header
 *   from_lo         host lo ingress        the same for what host processes send to the host itself
 *   from_container  host veth ingress      source checked, then: other container, host, or world
 *   after_shaper    shaper's far end       the same, for packets that had to wait for their container's turn
 *   host_flow       uplink root qdisc      where asked for: one flow for all that the host itself sends
 *   inner_lo        container lo ingress   own port or own socket: stays; else out to the host side
 *   inner_eth       container eth ingress  hands what is for ::1 and 127.0.0.0/8 to lo, which carries such packets
 *
 * The slot of a container is the filter's class id (TCA_BPF_CLASSID), which cls_bpf puts into tc_classid before it
 * runs the program: no lookup, and nothing a packet could forge.
 *
 * Each program has a short path for a TCP or UDP packet without options or fragments, and a long one for the rest.
 * Kernel: >= 5.10 (redirect_peer, redirect_neigh with a next hop).
 */
#include "enter.h"
#include "plain.h"

PROGRAM(from_wire)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct host *h = host_facts();
	__u32 slot;

	if (!h)
		return PASS;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = plain_v4(data, end);
		__u32 tcp;

		if (!ip)
			return inbound(skb, 0, FROM_WIRE);
		tcp = ip->protocol == PROTO_TCP;
		slot = port_slot(bpf_ntohs(((__be16 *)(ip + 1))[1]), ip->protocol);
		if (!slot || host_address_v4(h, ip->daddr) != ADDRESS_CARRIED || not_for_uplink(skb))
			return is_group_v4(h, ip->daddr) || (slot && is_other_broadcast(ip->daddr))
				       ? inbound(skb, 0, FROM_WIRE)
				       : PASS;
		if (martian_v4(h, ip->saddr) || strays(skb, h, ip->saddr, ETH_HLEN, L4_V4, 0))
			return DROP;
		return to_container(skb, h, slot, L4_V4, tcp);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = plain_v6(data, end);
		union addr src, dst;

		if (!ip)
			return inbound(skb, 1, FROM_WIRE);
		slot = port_slot(bpf_ntohs(((__be16 *)(ip + 1))[1]), ip->nexthdr);
		__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
		if (!slot || host_address_v6(h, &dst) != ADDRESS_CARRIED || not_for_uplink(skb))
			return is_group_v6(&dst) ? inbound(skb, 1, FROM_WIRE) : PASS;
		__builtin_memcpy(&src, &ip->saddr, sizeof(src));
		if (martian_v6(h, &src))
			return DROP;
		return to_container(skb, h, slot, L4_V6, ip->nexthdr == PROTO_TCP);
	}
	return PASS;
}

PROGRAM(from_tunnel)
{
	if (skb->mark == KEEP) {
		skb->mark = 0;
		return PASS;
	}
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return inbound(skb, 0, FROM_TUNNEL);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return inbound(skb, 1, FROM_TUNNEL);
	return PASS;
}

PROGRAM(from_lo)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct host *h = host_facts();
	__u32 slot;

	if (!h)
		return PASS;
	/* every unicast address that a packet on lo can carry is the host's own */
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = plain_v4(data, end);

		if (!ip)
			return inbound(skb, 0, FROM_LO);
		slot = port_slot(bpf_ntohs(((__be16 *)(ip + 1))[1]), ip->protocol);
		if (!slot || (!v4_is_loopback(ip->daddr) && !host_address_v4(h, ip->daddr)))
			return PASS;
		return to_container_locally(skb, h, slot, L4_V4, ip->protocol == PROTO_TCP,
					    h->flags & HOST_PEER_FROM_LO);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = plain_v6(data, end);
		union addr src, dst;

		if (!ip)
			return inbound(skb, 1, FROM_LO);
		slot = port_slot(bpf_ntohs(((__be16 *)(ip + 1))[1]), ip->nexthdr);
		if (!slot)
			return PASS;
		__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
		__builtin_memcpy(&src, &ip->saddr, sizeof(src));
		if (is_mapped(&src) || is_mapped(&dst) || (!is_loopback(&dst) && !host_address_v6(h, &dst)))
			return PASS;
		return to_container_locally(skb, h, slot, L4_V6, ip->nexthdr == PROTO_TCP,
					    h->flags & HOST_PEER_FROM_LO);
	}
	return PASS;
}

/* What a container may send besides packets with ports. Sets `to` to the slot the packet is for, 0 the host. */
static __noinline int check_icmp(struct __sk_buff *skb, struct packet *p, __u32 slot, __u32 *to)
{
	__u32 local = is_loopback(&p->dst) || host_address(&p->dst);
	struct packet *inner;

	if (p->icmp == ICMP_ASK)
		return -1;
	/* it is the host that is asked, and answers */
	if (p->icmp == ICMP_ANSWER)
		return R_ECHO;
	if (p->icmp == ICMP_LINK)
		return R_NEIGHBOR;
	/* Nothing that stays on this host is too big. The receiver would believe it of every way to that address. */
	if (!is_error(p) || (local && p->icmp == ICMP_TOO_BIG))
		return R_ICMP;
	/* An error may only be about a packet that was sent to this container: from where the error goes, to an address
	 * that containers carry, to one of its own ports. */
	inner = parse(skb, p->end, p->v6, QUOTED);
	if (!inner || inner->frag == FRAG_LATER || !has_ports(inner->proto) ||
	    port_slot(inner->dport, inner->proto) != slot || !same(&inner->src, &p->dst))
		return R_ICMP;
	if (is_loopback(&inner->dst) ? !local : host_address(&inner->dst) != ADDRESS_CARRIED)
		return R_ICMP;
	*to = port_slot(inner->sport, inner->proto);
	return -1;
}

/* A packet to this host that container `slot` may send, and whose turn it is: to container `to`, or to the host itself. */
APART int deliver_locally(struct __sk_buff *skb, __u32 slot, __u32 to, __u32 l4, __u32 tcp)
{
	struct host *h = host_facts();
	int done;

	if (!h)
		return DROP;
	sent(slot, skb, l4, tcp);
	done = to && to < MAX_SLOTS ? to_container_locally(skb, h, to, l4, tcp, 1) : PASS;
	return done == PASS ? to_host(skb) : done;
}

/* A packet that container `slot` may send, and whose turn it is: to container `to`, the host, or out of it. */
static __noinline int deliver(struct __sk_buff *skb, __u32 slot, struct packet *p, __u32 to)
{
	struct host *h = host_facts();
	__u32 how;

	if (!h)
		return DROP;
	if (is_loopback(&p->dst) || host_address(&p->dst))
		return deliver_locally(skb, slot, to, p->end - 8, p->proto == PROTO_TCP);
	how = leaving_slowly(h, p);
	return p->v6 ? to_world_v6(skb, h, slot, how, &p->dst) : to_world_v4(skb, h, slot, how, p->dst.w[3]);
}

/* Everything but plain TCP and UDP to the world that container `slot` sends, and every check it has to pass. */
APART int outbound(struct __sk_buff *skb, __u32 slot, __u32 v6)
{
	struct host *h = host_facts();
	struct slot *s = slot_of(slot);
	struct packet *p = parse(skb, ETH_HLEN, v6, OUTER);
	__u32 to = 0, local, looped;
	int why;

	if (!h || !s)
		return DROP;
	if (!p)
		return drop(slot, R_MALFORMED);
	looped = is_loopback(&p->dst);
	local = looped || host_address(&p->dst);
	if (is_loopback(&p->src) ? !looped : host_address(&p->src) != ADDRESS_CARRIED && !is_of_nobody(p))
		return drop(slot, R_SOURCE_ADDRESS);

	if (p->frag == FRAG_LATER) {
		why = fragment_follows(slot, s->epoch);
		if (why < 0)
			return drop(slot, R_FRAGMENT);
		to = why;
	} else if (has_ports(p->proto)) {
		if (port_slot(p->sport, p->proto) != slot && !shares_port(slot, s->epoch))
			return drop(slot, R_SOURCE_PORT);
		to = port_slot(p->dport, p->proto);
	} else if (p->icmp == ICMP_GROUP || (p->proto == PROTO_IGMP && !v6)) {
		if (!report(skb, slot, s->epoch, !oversize(skb, h, p->end - 8, 0)))
			return drop(slot, R_NEIGHBOR);
	} else if (p->proto == (v6 ? PROTO_ICMP6 : PROTO_ICMP)) {
		why = check_icmp(skb, p, slot, &to);
		if (why >= 0)
			return drop(slot, why);
	} else {
		return drop(slot, R_PROTOCOL);
	}

	if (local) {
		if (looped && !to && !(s->flags & SLOT_HOST_LOOPBACK))
			return drop(slot, R_HOST_LOOPBACK);
	} else {
		to = HOST;
	}
	if (!local && by_uplink(h, p)) {
		if (v6 ? unreachable_v6(h, &p->dst) : unreachable_v4(h, p->dst.w[3]))
			return nowhere(skb, slot, leaving_slowly(h, p), 0);
		if (oversize(skb, h, p->end - 8, p->proto == PROTO_TCP))
			return too_big(skb, slot, leaving_slowly(h, p), h->mtu);
	}
	/* What is remembered went: nothing follows, or answers, what a wall kept. */
	if (p->frag == FRAG_FIRST && fragment_begins(slot, s->epoch, to) < 0)
		return drop(slot, R_FRAGMENT);
	if (p->icmp == ICMP_ASK)
		echo_asked(slot, s->epoch);
	if (s->flags & SLOT_SHAPED && !(local && s->flags & SLOT_SPARE_LOCAL))
		return to_shaper(skb, s, slot, to);
	return deliver(skb, slot, p, to);
}

/* A plain packet from container `slot` to a port of this host's address. */
static __always_inline int plainly_to_this_host(struct __sk_buff *skb, const struct slot *s, __u32 slot, __be16 port, __u32 l4,
						__u8 proto)
{
	__u32 to = port_slot(bpf_ntohs(port), proto);

	if (s->flags & SLOT_SHAPED && !(s->flags & SLOT_SPARE_LOCAL))
		return to_shaper(skb, s, slot, to);
	return deliver_locally(skb, slot, to, l4, proto == PROTO_TCP);
}

PROGRAM(from_container)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 slot = skb->tc_classid, mac, here;
	struct host *h = host_facts();
	struct slot *s = slot_of(slot);
	__u16 mac_low;

	/* the lease is gone, or the slot has a new tenant: this device is inert */
	if (!h || !s || s->ifindex != skb->ifindex)
		return DROP;
	if (data + ETH_HLEN > end)
		return drop(slot, R_MALFORMED);
	/* the uplink's MAC, or lo's all zeros on what inner_lo sent over: that never leaves the host */
	mac = *(__u32 *)(data + 6);
	mac_low = *(__u16 *)(data + 10);
	if (mac != *(__u32 *)h->mac || mac_low != *(__u16 *)(h->mac + 4)) {
		if (mac || mac_low)
			return drop(slot, R_SOURCE_MAC);
	}
	/* a VLAN tag would reach networks that the uplink does not stand for */
	if (skb->vlan_present)
		return drop(slot, R_PROTOCOL);

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = plain_v4(data, end);

		if (!ip || host_address_v4(h, ip->saddr) != ADDRESS_CARRIED || v4_is_loopback(ip->daddr) ||
		    port_slot(bpf_ntohs(((__be16 *)(ip + 1))[0]), ip->protocol) != slot)
			return outbound(skb, slot, 0);
		here = host_address_v4(h, ip->daddr);
		if (!here && (oversize(skb, h, L4_V4, ip->protocol == PROTO_TCP) ||
			      ((!(h->flags & HOST_NEXTHOP_V4) || !h->v4_gw) && !h->fib)))
			return outbound(skb, slot, 0);
		if (here)
			return plainly_to_this_host(skb, s, slot, ((__be16 *)(ip + 1))[1], L4_V4, ip->protocol);
		if (s->flags & SLOT_SHAPED)
			return to_shaper(skb, s, slot, 0);
		return to_world_v4(skb, h, slot, leaving_plainly(s, ip->protocol, ip + 1, end, 0), ip->daddr);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = plain_v6(data, end);
		union addr src, dst;

		if (!ip)
			return outbound(skb, slot, 1);
		__builtin_memcpy(&src, &ip->saddr, sizeof(src));
		__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
		if (host_address_v6(h, &src) != ADDRESS_CARRIED || is_loopback(&dst) || is_mapped(&dst) ||
		    port_slot(bpf_ntohs(((__be16 *)(ip + 1))[0]), ip->nexthdr) != slot)
			return outbound(skb, slot, 1);
		here = host_address_v6(h, &dst);
		if (!here && (oversize(skb, h, L4_V6, ip->nexthdr == PROTO_TCP) ||
			      ((!(h->flags & HOST_NEXTHOP_V6) || !h->v6_gw.d[0]) && !h->fib)))
			return outbound(skb, slot, 1);
		if (here)
			return plainly_to_this_host(skb, s, slot, ((__be16 *)(ip + 1))[1], L4_V6, ip->nexthdr);
		if (s->flags & SLOT_SHAPED)
			return to_shaper(skb, s, slot, 0);
		return to_world_v6(skb, h, slot, leaving_plainly(s, ip->nexthdr, ip + 1, end, 1), &dst);
	}
	return drop(slot, skb->protocol == bpf_htons(ETH_P_ARP) ? R_NEIGHBOR : R_PROTOCOL);
}

/* The other end of the shaper's pair: a packet that passed from_container's checks and waited its turn. */
PROGRAM(after_shaper)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	__u32 slot = skb->mark & 0xffff, to = skb->mark >> 16, v6 = skb->protocol == bpf_htons(ETH_P_IPV6);
	struct host *h = host_facts();
	struct slot *s = slot_of(slot);
	struct packet *p;

	/* the lease may have ended while it waited */
	if (!h || !slot || !s || !s->ifindex)
		return DROP;
	skb->mark = 0;
	if (!v6) {
		struct iphdr *ip = plain_v4(data, end);

		if (ip && !v4_is_loopback(ip->daddr) && !host_address_v4(h, ip->daddr)) {
			return to_world_v4(skb, h, slot, leaving_plainly(s, ip->protocol, ip + 1, end, 0), ip->daddr);
		}
	} else {
		struct ipv6hdr *ip = plain_v6(data, end);
		union addr dst = {};

		if (ip)
			__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
		if (ip && !is_loopback(&dst) && !host_address_v6(h, &dst)) {
			return to_world_v6(skb, h, slot, leaving_plainly(s, ip->nexthdr, ip + 1, end, 1), &dst);
		}
	}
	p = parse(skb, ETH_HLEN, v6, OUTER);
	if (!p)
		return drop(slot, R_MALFORMED);
	/* a port may have got another owner while the packet waited */
	if (has_ports(p->proto) && p->frag != FRAG_LATER)
		to = port_slot(p->dport, p->proto);
	else if (p->frag == FRAG_LATER && h->fib)
		fragment_ports(slot);
	return deliver(skb, slot, p, to);
}

#include "inner.h"

/* On the uplink's root qdisc where that has a flow for each container: those name theirs by priority and do not come
 * here. The filter's own class is the host's flow. */
PROGRAM(host_flow)
{
	return TC_ACT_OK;
}

char _license[] SEC("license") = "Dual MIT/GPL";
