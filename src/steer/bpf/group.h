/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Packets to many: which containers have joined a group, as their own reports tell, and the copies that they get.
 *
 * A container's stack reports on its device when the first of its sockets joins a group and when the last one leaves. A join holds
 * until then, or until the container ends: there may be nobody on the link who asks for reports again. It stands twice: in the
 * container's own list, which bounds how much it can take up, and in the bucket of its group, which tells who gets copies.
 */
#pragma once

#include "deliver.h"

#define IGMP_REPORT_1 0x12
#define IGMP_REPORT_2 0x16
#define IGMP_LEAVE 0x17
#define IGMP_REPORT_3 0x22
#define MLD_REPORT_1 131
#define MLD_DONE 132
#define MLD_REPORT_2 143

/* Of a record of a report (RFC 3376 4.2.12, RFC 3810 5.2.12). */
#define MODE_IS_INCLUDE 1
#define MODE_IS_EXCLUDE 2
#define CHANGE_TO_INCLUDE 3
#define CHANGE_TO_EXCLUDE 4
#define ALLOW_NEW_SOURCES 5
#define RECORDS 32		/* of one report that are looked at; Linux tells of changes, which are few */

#define INET 2			/* AF_INET */
#define INET6 10

#define SHARED_PORTS 1024	/* what a process without privileges may bind begins here */

static __always_inline int is_multicast_v4(__u32 v4)
{
	return (v4 & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
}

static __always_inline int is_broadcast(const struct host *h, __u32 dst)
{
	return (dst && dst == h->v4_broadcast) || dst == 0xffffffff;
}

static __always_inline int is_group_v4(const struct host *h, __u32 dst)
{
	return is_broadcast(h, dst) || is_multicast_v4(dst);
}

static __always_inline int is_group_v6(const union addr *dst)
{
	return (dst->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline int is_group(const struct host *h, const struct packet *p)
{
	return p->v6 ? is_group_v6(&p->dst) : is_group_v4(h, p->dst.w[3]);
}

static __always_inline int is_other_broadcast(__u32 dst)
{
	union addr a;

	map_v4(&a, dst);
	return address_kind(&a) == ADDRESS_OF_MANY;
}

/* Is it for all on one of the host's networks? */
static __always_inline int is_for_all(const struct host *h, const struct packet *p)
{
	return !p->v6 && (is_broadcast(h, p->dst.w[3]) || address_kind(&p->dst) == ADDRESS_OF_MANY);
}

/* ff02::`last` */
static __always_inline int is_link_group(const union addr *a, __u32 last)
{
	return a->w[0] == bpf_htonl(0xff020000) && !a->w[1] && !a->w[2] && a->w[3] == bpf_htonl(last);
}

static __always_inline int is_all_hosts(const union addr *a)
{
	return is_mapped(a) ? a->w[3] == bpf_htonl(0xe0000001) : is_link_group(a, 1);
}

static __always_inline void all_hosts(union addr *a, __u32 v6)
{
	map_v4(a, bpf_htonl(0xe0000001));
	if (v6) {
		a->w[0] = bpf_htonl(0xff020000);
		a->w[2] = 0;
		a->w[3] = bpf_htonl(1);
	}
}

/* Is it a group that copies are made for? Not the one that every host is in, those that never leave a host, and those by which
 * neighbours ask for the host's own addresses (RFC 4291 2.7.1). */
static __always_inline int is_joinable(const union addr *a)
{
	if (is_all_hosts(a))
		return 0;
	if (is_mapped(a))
		return is_multicast_v4(a->w[3]);
	if (!is_group_v6(a) || (a->w[0] & bpf_htonl(0x000f0000)) == bpf_htonl(0x00010000))
		return 0;
	return a->w[0] != bpf_htonl(0xff020000) || a->w[1] || a->w[2] != bpf_htonl(1) || bpf_ntohl(a->w[3]) >> 24 != 0xff;
}

/* A report of IPv6 that names no sender: what a stack sends that has no address of the link. */
static __always_inline int is_of_nobody(const struct packet *p)
{
	return p->v6 && p->icmp == ICMP_GROUP && !p->src.d[0] && !p->src.d[1];
}

static __always_inline struct joined *joined_of(__u32 n)
{
	return bpf_map_lookup_elem(&joined, &n);
}

static __noinline struct group_bucket *group_bucket(const union addr *group)
{
	__u32 key = stir(stir(seed(), group->d[0]), group->d[1]) % GROUP_BUCKETS;

	return bpf_map_lookup_elem(&groups, &key);
}

#define PLACE_FREE 2		/* grades of place() */
#define PLACE_SAME 3

/* Where a group stands in a container's list, or can. */
static __noinline __u64 joined_place(const struct joined *j, const union addr *group)
{
	__u64 best = 0;

#pragma unroll
	for (int i = 0; i < JOINS; i++) {
		const union addr *a = &j->group[i];
		__u64 same = is_same(a->d[0], group->d[0]) & is_same(a->d[1], group->d[1]);

		best = better(best, place(same, is_same(a->d[0] | a->d[1], 0), 0, 0) | i);
	}
	return best;
}

/* The same of a member in the bucket of its group. */
static __noinline __u64 member_place(const struct group_bucket *b, __u64 me)
{
	__u64 best = 0;

#pragma unroll
	for (int i = 0; i < GROUP_MEMBERS; i++)
		best = better(best, place(is_same(b->way[i], me), is_same(b->way[i], 0), 0, 0) | i);
	return best;
}

static __noinline int forget_ended(__u64 *way)
{
	struct slot *s = slot_of(*way & 0xffff);

	if (s && (!s->ifindex || s->epoch != *way >> 32))
		*way = 0;
	return 0;
}

/* Takes out of a bucket what containers that ended left there. */
static __noinline int sweep(struct group_bucket *b)
{
#pragma unroll
	for (int i = 0; i < GROUP_MEMBERS; i++)
		forget_ended(&b->way[i]);
	return 0;
}

static __always_inline __u64 in_bucket(__u32 n, __u32 epoch, __u64 at)
{
	return n | (at % JOINS) << 16 | (__u64)epoch << 32;
}

/* The group that a report speaks of stands where the packet does that an ICMP error quotes. */
static __always_inline union addr *spoken_of(void)
{
	struct packet *p = packet(QUOTED);

	return p ? &p->dst : 0;
}

/* Takes note that container `n` has joined the group that is spoken of, or left it. One that has joined too much, and one that comes
 * after as many as get copies, is not noted. Two processors may take one place: a report is sent twice. */
APART int change(__u32 n, __u32 epoch, __u32 joins)
{
	union addr *group = spoken_of();
	struct joined *j = joined_of(n);
	struct group_bucket *b = group ? group_bucket(group) : 0;
	__u64 at, place, me;

	if (!j || !b)
		return 0;
	sweep(b);
	at = joined_place(j, group);
	me = in_bucket(n, epoch, at);
	place = member_place(b, me);
	if (joins) {
		if (at >> 61 < PLACE_FREE || place >> 61 < PLACE_FREE)
			return 0;
		j->group[at % JOINS] = *group;
		b->way[place % GROUP_MEMBERS] = me;
	} else if (at >> 61 == PLACE_SAME) {
		j->group[at % JOINS].d[0] = 0;
		j->group[at % JOINS].d[1] = 0;
		if (place >> 61 == PLACE_SAME)
			b->way[place % GROUP_MEMBERS] = 0;
	}
	return 0;
}

static __always_inline int load_group(struct __sk_buff *skb, __u32 off, __u32 v6, union addr *group)
{
	__u32 v4;

	if (v6) {
		if (bpf_skb_load_bytes(skb, off, group, 16) < 0)
			return -1;
		/* IPv4 written as IPv6 names no group, least of all one of IPv4 */
		if (is_mapped(group))
			group->w[2] = 0;
		return 0;
	}
	if (bpf_skb_load_bytes(skb, off, &v4, 4) < 0)
		return -1;
	map_v4(group, v4);
	return 0;
}

/* Does a record say that somebody joins, or that he leaves? Who wants some sources only gets all: his own stack tells them apart. */
static __always_inline __u32 joins(__u8 type, __u32 sources)
{
	return type == MODE_IS_EXCLUDE || type == CHANGE_TO_EXCLUDE ||
	       (sources && (type == MODE_IS_INCLUDE || type == CHANGE_TO_INCLUDE || type == ALLOW_NEW_SOURCES));
}

static __always_inline __u32 leaves(__u8 type, __u32 sources)
{
	return !sources && (type == MODE_IS_INCLUDE || type == CHANGE_TO_INCLUDE);
}

/* Takes note of one record. Returns where the next one is; 0: there is none. A record that blocks sources says nothing of the others,
 * and one of an unknown type nothing at all. */
APART __u32 record(struct __sk_buff *skb, __u32 off, __u32 n, __u32 epoch, __u32 v6)
{
	__u32 sources, length = v6 ? 16 : 4;
	union addr *group = spoken_of();
	__u8 head[4];

	if (!off || !group || bpf_skb_load_bytes(skb, off, head, 4) < 0 || load_group(skb, off + 4, v6, group) < 0)
		return 0;
	sources = (__u32)head[2] << 8 | head[3];
	if (is_joinable(group) && (joins(head[0], sources) || leaves(head[0], sources)))
		change(n, epoch, joins(head[0], sources));
	return off + 4 + length + sources * length + (__u32)head[1] * 4;
}

/* A report has to come from an address of the link (RFC 3810 5.2.13), which a container does not have: the host's. */
static __always_inline int from_the_link(struct __sk_buff *skb, const struct host *h, const struct packet *p)
{
	__u32 src = ETH_HLEN + __builtin_offsetof(struct ipv6hdr, saddr);
	__s64 sum = bpf_csum_diff((__be32 *)&p->src, 16, (__be32 *)&h->v6_link, 16, 0);

	if (!h->v6_link.d[0] || same(&p->src, &h->v6_link))
		return 0;
	if (bpf_l4_csum_replace(skb, p->end - 8 + 2, 0, sum, BPF_F_PSEUDO_HDR) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, src, &h->v6_link, 16, 0);
}

/* Is it for those whom a report of this type is for: of one that names its group in its header, `group` (RFC 2236 3, RFC 3376
 * 4.2.14, RFC 2710 3, RFC 3810 5.2.14)? */
static __always_inline int is_addressed(const struct packet *p, __u8 type, const union addr *group)
{
	__u32 v4 = p->dst.w[3];

	if (p->v6) {
		if (type == MLD_REPORT_2)
			return is_link_group(&p->dst, 0x16);
		if (type == MLD_DONE)
			return is_link_group(&p->dst, 2);
		return type == MLD_REPORT_1 && is_group_v6(&p->dst) && same(&p->dst, group);
	}
	if (type == IGMP_REPORT_3)
		return v4 == bpf_htonl(0xe0000016);
	if (type == IGMP_LEAVE)
		return v4 == bpf_htonl(0xe0000002);
	return (type == IGMP_REPORT_1 || type == IGMP_REPORT_2) && is_multicast_v4(v4) && same(&p->dst, group);
}

/* A list of joins is that of a lease. */
static __always_inline void begin_list(struct joined *j, __u32 epoch)
{
	if (j->epoch == epoch)
		return;
	__builtin_memset(j->group, 0, sizeof(j->group));
	j->epoch = epoch;
}

/* Looks at what container `n` reports to its neighbours, and takes note of it if it `goes`. 0: it must not. */
APART int report(struct __sk_buff *skb, __u32 n, __u32 epoch, __u32 goes)
{
	struct packet *p = packet(OUTER);
	struct joined *j = joined_of(n);
	struct host *h = host_facts();
	union addr *group = spoken_of(), named;
	__u32 off, count;
	__u8 head[8];

	if (!p || !j || !h || !group)
		return 0;
	off = p->end - 8;
	if (p->frag || bpf_skb_load_bytes(skb, off, head, 8) < 0)
		return 0;
	count = head[0] == (p->v6 ? MLD_REPORT_2 : IGMP_REPORT_3) ? (__u32)head[6] << 8 | head[7] : 0;
	all_hosts(group, p->v6);
	if (head[0] != (p->v6 ? MLD_REPORT_2 : IGMP_REPORT_3) && load_group(skb, off + (p->v6 ? 8 : 4), p->v6, group) < 0)
		return 0;
	if (!is_addressed(p, head[0], group))
		return 0;
	if (!goes)
		return 1;
	begin_list(j, epoch);
	named = *group;
	/* who asks for reports asks all hosts */
	all_hosts(group, p->v6);
	change(n, epoch, 1);
	*group = named;
	if (is_joinable(group))
		change(n, epoch, head[0] != (p->v6 ? MLD_DONE : IGMP_LEAVE));
	off += 8;
#pragma unroll
	for (__u32 i = 0; i < RECORDS; i++)
		if (i < count)
			off = record(skb, off, n, epoch, p->v6);
	return !p->v6 || from_the_link(skb, h, p) >= 0;
}

/* Has nobody a UDP port, or have only those it who share it? */
static __always_inline __u32 is_shared(__u64 word)
{
	return word & CLAIMED ? (word & REUSE) != 0 : !(__u32)word;
}

/* May container `n` send from this port, which is not its own? Those who have joined a group talk from the port that they all
 * listen at, as processes of one host may that share it. It must be nobody's alone, and what a process may bind without privileges. */
APART int shares_port(__u32 n, __u32 epoch)
{
	struct packet *p = packet(OUTER);
	struct joined *j = joined_of(n);
	__u32 port = p ? p->sport : 0, key = port_key(port, PROTO_UDP);
	__u64 *word = bpf_map_lookup_elem(&ports, &key);

	if (!p || !j || !word || !is_shared(*word) || p->proto != PROTO_UDP || p->sport != p->dport || port < SHARED_PORTS)
		return 0;
	return j->epoch == epoch && is_joinable(&p->dst) && joined_place(j, &p->dst) >> 61 == PLACE_SAME;
}

/* A copy for container `n`, with the MAC addresses that it came with. */
static __noinline int copy_for(struct __sk_buff *skb, __u32 n, const struct packet *p, __u32 local)
{
	struct slot *s = running(n);

	if (!s)
		return 0;
	received(n, skb, p->end - 8, p->proto == PROTO_TCP);
	skb->priority = local && !limits(s, 1) ? UNLIMITED : ingress_class(s);
	bpf_clone_redirect(skb, s->ifindex, 0);
	return 0;
}

APART int copy_for_member(struct __sk_buff *skb, __u64 way, __u32 from)
{
	__u32 n = way & 0xffff;
	struct packet *p = packet(OUTER);
	struct joined *j = joined_of(n);
	struct slot *s = slot_of(n);

	if (!n || n == from || !p || !s || !j || s->epoch != way >> 32 || j->epoch != s->epoch ||
	    !same(&j->group[(way >> 16) % JOINS], &p->dst))
		return 0;
	return copy_for(skb, n, p, from);
}

/* Copies of a packet to many for the containers that it concerns. `from`: the one that sent it, or 0. What is for everybody is for
 * the owner of its port, which is one; what is for a group, for those who joined it. */
APART int copy_for_many(struct __sk_buff *skb, __u32 from)
{
	__u32 priority = skb->priority, ports, to;
	struct packet *p = packet(OUTER);
	struct host *h = host_facts();
	struct group_bucket *b;

	if (!h || !p)
		return 0;
	ports = has_ports(p->proto);
	if (ports && (is_all_hosts(&p->dst) || is_for_all(h, p))) {
		to = p->frag == FRAG_LATER ? 0 : port_slot(p->dport, p->proto);
		if (to && to < MAX_SLOTS && to != from)
			copy_for(skb, to, p, from);
	} else if (ports || (!from && (p->icmp == ICMP_GROUP || (!p->v6 && p->proto == PROTO_IGMP)))) {
		b = group_bucket(&p->dst);
		if (!b)
			return 0;
#pragma unroll
		for (int i = 0; i < GROUP_MEMBERS; i++)
			if (b->way[i])
				copy_for_member(skb, b->way[i], from);
	}
	skb->priority = priority;
	return 0;
}

/* A copy of what a container sent for processes of the host. The stack takes packets with the host's own address from lo, where
 * no IPv4 group is joined, or, of IPv6, from any device. */
static __always_inline void copy_for_host(struct __sk_buff *skb, const struct host *h, const struct packet *p)
{
	__u32 mark = skb->mark;

	if (!has_ports(p->proto))
		return;
	if (p->v6) {
		skb->mark = KEEP;
		bpf_clone_redirect(skb, h->uplink, BPF_F_INGRESS);
		skb->mark = mark;
	} else if (is_for_all(h, p)) {
		bpf_clone_redirect(skb, LOOPBACK, BPF_F_INGRESS);
	}
}

/* No neighbour has the address of a group, its MAC follows from it (RFC 1112 6.4, RFC 2464 7). */
static __always_inline void group_mac(const struct packet *p, __u8 *mac)
{
	__u32 low = bpf_ntohl(p->dst.w[3]);

	if (p->v6) {
		mac[0] = 0x33;
		mac[1] = 0x33;
		__builtin_memcpy(mac + 2, &p->dst.w[3], 4);
	} else if (low >> 28 == 0xe) {
		mac[0] = 0x01;
		mac[1] = 0x00;
		mac[2] = 0x5e;
		mac[3] = low >> 16 & 0x7f;
		mac[4] = low >> 8;
		mac[5] = low;
	} else {
		__builtin_memset(mac, 0xff, ETH_ALEN);
	}
}

/* Out of a device to all, or of the uplink to a group, with copies for those on this host. The sender's own stack makes the one for its own
 * sockets. */
APART int to_many(struct __sk_buff *skb, __u32 n, __u32 v6, __u32 device)
{
	struct packet *p = parse(skb, ETH_HLEN, v6, OUTER);
	struct bpf_redir_neigh nh = {.nh_family = INET};
	struct host *h = host_facts();
	__u8 macs[2 * ETH_ALEN];

	if (!h || !p)
		return DROP;
	group_mac(p, macs);
	__builtin_memcpy(macs + ETH_ALEN, h->mac, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) < 0)
		return DROP;
	copy_for_many(skb, n);
	copy_for_host(skb, h, p);
	if (device == h->uplink)
		return bpf_redirect(device, 0);
	/* With that device's own MAC. The kernel sends nothing that has everybody's already (__bpf_redirect_neigh, net/core/filter.c). */
	if (bpf_skb_store_bytes(skb, 0, h->mac, ETH_ALEN, 0) < 0)
		return DROP;
	nh.ipv4_nh = p->dst.w[3];
	return bpf_redirect_neigh(device, &nh, sizeof(nh), 0);
}
