/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * The long path inwards: whom a packet is for that came to this host, or that the host sends to itself, and is no plain TCP or UDP.
 */
#pragma once

#include "back.h"
#include "group.h"
#include "held.h"

#define VLAN_ID 0x0fff

enum origin { FROM_WIRE, FROM_LO, FROM_TUNNEL };

static __always_inline int is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_ID;
}

/* Is a frame from the wire not the uplink's? One for another MAC, or for many, is dropped by the host's stack, so it has
 * to get there. A tagged one belongs to a VLAN device of the host; a tag of VLAN 0 is but a priority. */
static __always_inline int not_for_uplink(const struct __sk_buff *skb)
{
	return skb->pkt_type != 0 /* PACKET_HOST */ || is_tagged(skb);
}

/* Does the host's stack take a frame from the wire that holds a packet to many? Some bridges and access points send such a packet to
 * each receiver by his own MAC. */
static __always_inline int takes_of_many(const struct __sk_buff *skb)
{
	return skb->pkt_type != 3 /* PACKET_OTHERHOST */ && !is_tagged(skb);
}

/* Whom a packet on its way in is for. */
struct receiver {
	__u32 to;		/* as in fragment_way.to */
	__u32 epoch;		/* tag of an answer */
};

static __always_inline void all_who_asked(struct receiver *r, const union addr *remote, __u32 id)
{
	__u64 digest = echo_digest(remote, id);

	r->to = ANSWER | digest % ECHO_BUCKETS;
	r->epoch = echo_tag(digest);
}

/* Whom an ICMP error concerns: the sender of the packet it quotes. */
static __noinline int of_quoted(struct __sk_buff *skb, struct packet *p, struct receiver *r)
{
	struct packet *inner = parse(skb, p->end, p->v6, QUOTED);

	if (!inner || inner->frag == FRAG_LATER)
		return 0;
	if (!is_loopback(&inner->src) && host_address(&inner->src) != ADDRESS_CARRIED)
		return 0;
	if (has_ports(inner->proto))
		r->to = port_slot(inner->sport, inner->proto);
	else if (inner->icmp == ICMP_ASK)
		all_who_asked(r, &inner->dst, inner->sport);
	return 0;
}

APART int copy_to_asker(struct __sk_buff *skb, __u32 n)
{
	struct host *h = host_facts();

	return h && n < MAX_SLOTS ? copy_to_container(skb, h, n) : PASS;
}

/* Puts an Ethernet header before a packet that has none: the container's device is one of Ethernet. */
static __noinline int frame(struct __sk_buff *skb, struct host *h)
{
	struct ethhdr eth = {.h_proto = skb->protocol};

	__builtin_memcpy(eth.h_dest, h->mac, ETH_ALEN);
	if (bpf_skb_change_head(skb, ETH_HLEN, 0) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0);
}

/* An answer, or an error about a question: as on one host, all who asked so get it, and the host, which may have asked too. */
static __noinline int to_askers(struct __sk_buff *skb, __u32 to, __u32 tag, __u32 origin)
{
	struct echo_bucket *b = echo_bucket(to);
	struct host *h = host_facts();

	if (!b || !h || now() - b->newest > ECHO_LIFETIME)
		return PASS;
	if (origin == FROM_TUNNEL && frame(skb, h) < 0)
		return DROP;
#pragma unroll
	for (int i = 0; i < ECHO_WAYS; i++) {
		__u32 n = echo_asker(&b->way[i], tag);

		if (n)
			copy_to_asker(skb, n);
	}
	if (origin != FROM_TUNNEL)
		return PASS;
	/* the device takes the header off again */
	skb->mark = KEEP;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

static __noinline int out_of_tunnel(struct __sk_buff *skb, struct host *h, __u32 n, struct packet *p)
{
	if (!running(n))
		return PASS;
	if (frame(skb, h) < 0)
		return DROP;
	return to_container(skb, h, n, p->end - 8 + ETH_HLEN, p->proto == PROTO_TCP);
}

/* Does a header before the ports take up all that the packet says it has? Its stack cuts off what is behind (ip6_rcv_core, ip_rcv_core)
 * and may complain of such a header all the same. A container's error about it would quote no port, so it is the host that answers. */
static __noinline int ports_are_behind_its_end(struct __sk_buff *skb, struct packet *p, __u32 start)
{
	__u32 header = p->v6 ? sizeof(struct ipv6hdr) : sizeof(struct iphdr), end;
	__be16 length;

	if (p->end - 8 == start + header || bpf_skb_load_bytes(skb, start + (p->v6 ? 4 : 2), &length, sizeof(length)) < 0)
		return 0;
	end = start + (p->v6 ? header : 0) + bpf_ntohs(length);
	/* one of more than 64 KB says nothing */
	return length && p->end - 4 > end;
}

/* Does the host refuse the source of a packet to many? Who has no address yet speaks to everybody from 0.0.0.0; the container's stack
 * knows where that may be. */
static __always_inline int is_refused(struct __sk_buff *skb, const struct host *h, const struct packet *p)
{
	__u32 src = p->src.w[3];

	if (p->v6)
		return martian_v6(h, &p->src);
	return src && (martian_v4(h, src) || strays(skb, h, src, ETH_HLEN, 0, 1));
}

/* Apart from where the mark is read, or the compiler makes a pointer to it, which the verifier does not take. */
static __noinline int unmark(struct __sk_buff *skb)
{
	skb->mark = 0;
	return 0;
}

/* A packet to many that came from the wire, or a container's that is for the host. Its stack gets it in any case. */
static __always_inline void from_many(struct __sk_buff *skb, const struct host *h, const struct packet *p)
{
	__u32 by_uplink = skb->ifindex == h->uplink;

	/* groups are joined on the uplink; a container's MAC is the uplink's, so of another device it takes what is for everybody's */
	if (!(by_uplink && is_group(h, p)) && !((by_uplink || skb->pkt_type == 1 /* PACKET_BROADCAST */) && is_for_all(h, p)))
		return;
	/* what a container sent for the host: of IPv6 alone it comes this way */
	if (p->v6 && skb->mark == KEEP)
		unmark(skb);
	else if (!is_refused(skb, h, p))
		copy_for_many(skb, 0);
}

/* Everything but plain TCP and UDP to one on its way in, from a device of the host or from host lo. */
static __noinline int inbound(struct __sk_buff *skb, __u32 v6, __u32 origin)
{
	struct host *h = host_facts();
	struct receiver r = {};
	__u32 start = origin == FROM_TUNNEL ? 0 : ETH_HLEN;
	struct packet *p = parse_any(skb, start, v6, OUTER);
	__u32 martian = 0;
	__u64 digest = 0;
	struct slot *s;

	if (!h || !p || (origin == FROM_LO && v6 && is_mapped(&p->src)))
		return PASS;
	if (host_address(&p->dst) != ADDRESS_CARRIED && !(origin == FROM_LO && (is_loopback(&p->dst) || host_address(&p->dst)))) {
		if (origin == FROM_WIRE && takes_of_many(skb))
			from_many(skb, h, p);
		return PASS;
	}
	if (origin != FROM_LO) {
		if (not_for_uplink(skb))
			return PASS;
		martian = v6 ? martian_v6(h, &p->src)
			     : martian_v4(h, p->src.w[3]) ||
				       strays(skb, h, p->src.w[3], start, p->frag == FRAG_LATER ? 0 : p->end - 8, 0);
	}
	if (p->frag)
		digest = fragment_digest(p, origin == FROM_LO);
	if (p->frag == FRAG_LATER)
		r.to = later(skb, digest, &r.epoch, origin == FROM_WIRE && !martian);
	else if (has_ports(p->proto))
		r.to = ports_are_behind_its_end(skb, p, start) ? HOST : port_slot(p->dport, p->proto);
	else if (is_error(p))
		of_quoted(skb, p, &r);
	else if (p->icmp == ICMP_ANSWER)
		all_who_asked(&r, &p->src, p->sport);
	s = r.to && !(r.to & ANSWER) ? slot_of(r.to) : 0;
	/* the slot may have got another tenant since the first one */
	if (p->frag == FRAG_LATER && s && s->epoch != r.epoch)
		return PASS;
	if (r.to & ANSWER) {
		if (martian)
			return PASS;
		if (p->frag == FRAG_FIRST)
			fragment_came(digest, r.to, r.epoch);
		return to_askers(skb, r.to, r.epoch, origin);
	}
	if (martian)
		return r.to ? DROP : PASS;
	if (p->frag == FRAG_FIRST)
		fragment_came(digest, s ? r.to : HOST, s ? s->epoch : 0);
	if (p->frag == FRAG_FIRST && origin == FROM_WIRE && bring_held(skb, s ? r.to : HOST, digest) < 0)
		return DROP;
	if (!s || r.to >= MAX_SLOTS)
		return PASS;
	if (origin == FROM_WIRE)
		return to_container(skb, h, r.to, p->end - 8, p->proto == PROTO_TCP);
	if (origin == FROM_TUNNEL)
		return out_of_tunnel(skb, h, r.to, p);
	return to_container_locally(skb, h, r.to, p->end - 8, p->proto == PROTO_TCP, h->flags & HOST_PEER_FROM_LO);
}
