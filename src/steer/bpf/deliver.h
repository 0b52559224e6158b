/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Where a packet goes once it is known whose it is, and the counters on the way. Bytes are counted as on the wire:
 * a GSO or GRO packet counts as the segments it stands for, each with its own headers.
 */
#pragma once

#include "track.h"

#define LOOPBACK 1		/* ifindex of lo in every network namespace (LOOPBACK_IFINDEX) */
#define SHARED 0		/* key of single-entry maps */
#define HOST 0			/* its slot */

#define CLASSIFIER(name) SEC("classifier") int name(struct __sk_buff *skb __attribute__((unused)))
#ifdef TEST_FORMAT	/* a build that plays another version (build.rs): every program has an instruction of its own */
#define PROGRAM(name)                                                                              \
	static __always_inline int name##_of_another(struct __sk_buff *skb);                       \
	CLASSIFIER(name)                                                                           \
	{                                                                                          \
		asm volatile("r0 = %0" : : "i"(TEST_FORMAT) : "r0");                               \
		return name##_of_another(skb);                                                     \
	}                                                                                          \
	static __always_inline int name##_of_another(struct __sk_buff *skb __attribute__((unused)))
#else
#define PROGRAM CLASSIFIER
#endif

static __always_inline struct host *host_facts(void)
{
	__u32 key = SHARED;

	return bpf_map_lookup_elem(&host, &key);
}

static __always_inline __u32 port_slot(__u16 port)
{
	__u32 key = port;
	__u64 *slot = bpf_map_lookup_elem(&ports, &key);

	return slot ? (__u32)*slot : 0;
}

/* ADDRESS_OF_*, or 0 for an address that is not the host's. */
static __always_inline __u32 host_address(const union addr *a)
{
	__u32 *kind = bpf_map_lookup_elem(&addresses, a);

	return kind ? *kind : 0;
}

static __always_inline __u32 host_address_v4(const struct host *h, __u32 v4)
{
	union addr a;

	if (v4 == h->v4)
		return ADDRESS_OF_UPLINK;
	if (h->flags & HOST_ONE_V4)
		return 0;
	map_v4(&a, v4);
	return host_address(&a);
}

static __always_inline __u32 host_address_v6(const struct host *h, const union addr *a)
{
	if (same(a, &h->v6))
		return ADDRESS_OF_UPLINK;
	if (h->flags & HOST_ONE_V6 || is_mapped(a))
		return 0;
	return host_address(a);
}

/* May no packet from the wire come from here? The host's own stack drops these (martians): loopback, the host's own
 * addresses, and what names no single sender. An answer to such an address would stay on this host, or go to many. */
static __always_inline int martian_v4(const struct host *h, __u32 src)
{
	__u32 first = bpf_ntohl(src) >> 24;

	if (first == 0 || first == 127 || src == h->v4_broadcast)
		return 1;
	/* multicast, and 255.255.255.255; the rest of 240.0.0.0/4 are addresses like others */
	if (first >= 224 && (first < 240 || src == 0xffffffff))
		return 1;
	return host_address_v4(h, src);
}

/* The host's stack lets its own address and the unspecified one pass, which IPv4 does not: they end here as well. */
static __always_inline int martian_v6(const struct host *h, const union addr *src)
{
	/* ::, ::1, and IPv4 as ::ffff:a.b.c.d, which has no place in an IPv6 header */
	if (!src->d[0] && (is_mapped(src) || (!src->w[2] && bpf_ntohl(src->w[3]) <= 1)))
		return 1;
	if ((src->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000))
		return 1;
	return host_address_v6(h, src);
}

/* Bytes of headers, Ethernet's included, that every segment has of a GSO/GRO packet whose transport header begins at
 * `l4`. */
static __noinline __u32 headers_of(struct __sk_buff *skb, __u32 l4, __u32 tcp)
{
	__u8 doff;

	if (!tcp || bpf_skb_load_bytes(skb, l4 + 12, &doff, 1) < 0)
		return l4 + 8;
	return l4 + (doff >> 4) * 4;
}

/* Wire packets and bytes of such a packet. */
static __always_inline __u64 segments(struct __sk_buff *skb, __u32 l4, __u32 tcp)
{
	__u32 n = skb->gso_segs, size = skb->gso_size, headers = headers_of(skb, l4, tcp);

	/* a driver or a raw socket may leave the count out (SKB_GSO_DODGY) */
	if (!n && size && skb->len > headers)
		n = (skb->len - headers + size - 1) / size;
	if (!n)
		n = 1;
	return (__u64)(n - 1) * headers << 16 | (n & 0xffff);
}

static __always_inline void count(__u64 *packets, __u64 *bytes, struct __sk_buff *skb, __u32 l4, __u32 tcp)
{
	__u64 n = 1, extra = 0;

	if (skb->gso_size) {
		__u64 s = segments(skb, l4, tcp);

		n = s & 0xffff;
		extra = s >> 16;
	}
	*packets += n;
	*bytes += skb->len + extra;
}

static __always_inline void received(__u32 slot, struct __sk_buff *skb, __u32 l4, __u32 tcp)
{
	struct counters *c = bpf_map_lookup_elem(&counters, &slot);

	if (c)
		count(&c->rx_packets, &c->rx_bytes, skb, l4, tcp);
}

static __always_inline void sent(__u32 slot, struct __sk_buff *skb, __u32 l4, __u32 tcp)
{
	struct counters *c = bpf_map_lookup_elem(&counters, &slot);

	if (c)
		count(&c->tx_packets, &c->tx_bytes, skb, l4, tcp);
}

static __noinline int drop(__u32 slot, __u32 why)
{
	struct counters *c = bpf_map_lookup_elem(&counters, &slot);

	if (c && why < REASONS)
		c->drops[why]++;
	return DROP;
}

/* Container `n`, if its device is there. One that ended may still have its lease: what comes for it is the host's to
 * refuse. */
static __always_inline struct slot *running(__u32 n)
{
	struct bpf_devmap_val *device;
	struct slot *s = slot_of(n);

	if (!s || !s->ifindex)
		return 0;
	device = bpf_map_lookup_elem(&devices, &n);
	return device && device->ifindex == s->ifindex ? s : 0;
}

/* An ingress limit sits on the host's end: redirect_peer would pass it by. */
static __always_inline int limits(const struct slot *s, __u32 local)
{
	return s->flags & SLOT_THROUGH_QDISC && !(local && s->flags & SLOT_SPARE_LOCAL);
}

/* The class of that limit: the qdisc's default one, unless it is the second one's turn. Whatever class a process of the
 * host chose, it is not its to choose. */
static __always_inline __u32 ingress_class(const struct slot *s)
{
	return s->flags & SLOT_INGRESS_SECOND ? INGRESS_SECOND : 0;
}

/* From the wire into container `n`. */
static __always_inline int to_container(struct __sk_buff *skb, __u32 n, __u32 l4, __u32 tcp)
{
	struct slot *s = running(n);

	if (!s)
		return PASS;
	received(n, skb, l4, tcp);
	if (limits(s, 0)) {
		skb->priority = ingress_class(s);
		return bpf_redirect(s->ifindex, 0);
	}
	return bpf_redirect_peer(s->ifindex, 0);
}

/* From host lo or another container into container `n`. These frames carry lo's all-zero MAC; redirect_peer keeps
 * their packet type, the walk through the veth takes it anew from the MAC. */
static __always_inline int to_container_locally(struct __sk_buff *skb, const struct host *h, __u32 n, __u32 l4,
						__u32 tcp, __u32 peer)
{
	struct slot *s = running(n);

	if (!s)
		return PASS;
	received(n, skb, l4, tcp);
	if (peer && !limits(s, 1)) {
		bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
		return bpf_redirect_peer(s->ifindex, 0);
	}
	skb->priority = limits(s, 1) ? ingress_class(s) : UNLIMITED;
	if (bpf_skb_store_bytes(skb, 0, h->mac, sizeof(h->mac), 0) < 0)
		return DROP;
	return bpf_redirect(s->ifindex, 0);
}

/* A copy for container `n`, the original for the host: it may have asked under the same echo id. */
static __always_inline int copy_to_container(struct __sk_buff *skb, const struct host *h, __u32 n)
{
	struct slot *s = running(n);

	if (!s || bpf_skb_store_bytes(skb, 0, h->mac, sizeof(h->mac), 0) < 0)
		return PASS;
	received(n, skb, 0, 0);
	skb->priority = ingress_class(s);
	bpf_clone_redirect(skb, s->ifindex, 0);
	return PASS;
}

/* To a process of the host. */
static __always_inline int to_host(struct __sk_buff *skb)
{
	__u8 zero[ETH_ALEN] = {};

	/* lo's own address is all zeros: anything else would make the packet somebody else's (PACKET_OTHERHOST) */
	if (bpf_skb_store_bytes(skb, 0, zero, sizeof(zero), 0) < 0)
		return DROP;
	return bpf_redirect(LOOPBACK, BPF_F_INGRESS);
}

/* What container `n` sends waits in its class of the shaper, then comes back through after_shaper. The mark says whose
 * it is and, for a later fragment, which container it is for (`to`); it never leaves the host's namespace. */
static __always_inline int to_shaper(struct __sk_buff *skb, const struct slot *s, __u32 n, __u32 to)
{
	struct slot *shaper = slot_of(HOST);

	if (!shaper)
		return DROP;
	skb->priority = SHAPER_CLASS(n) + (s->flags & SLOT_EGRESS_SECOND ? SHAPER_SECOND : 0);
	skb->mark = n | to << 16;
	return bpf_redirect(shaper->ifindex, 0);
}

/* Out of the uplink to all, or to a group: no neighbour has that address, its MAC follows from it (RFC 1112 6.4, RFC 2464
 * 7). A copy for the sender's own group members is its own stack's to make; those elsewhere on this host get none. */
static __always_inline int to_group(struct __sk_buff *skb, const struct host *h, const __u8 *group)
{
	__u8 macs[2 * ETH_ALEN];

	__builtin_memcpy(macs, group, ETH_ALEN);
	__builtin_memcpy(macs + ETH_ALEN, h->mac, ETH_ALEN);
	if (bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0) < 0)
		return DROP;
	return bpf_redirect(h->uplink, 0);
}

static __always_inline int is_group_v4(const struct host *h, __u32 dst)
{
	return dst == h->v4_broadcast || dst == 0xffffffff || (dst & bpf_htonl(0xf0000000)) == bpf_htonl(0xe0000000);
}

static __always_inline int to_group_v4(struct __sk_buff *skb, const struct host *h, __u32 dst)
{
	__u8 mac[ETH_ALEN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	__u32 low = bpf_ntohl(dst);

	if (low >> 28 == 0xe) {
		mac[0] = 0x01;
		mac[1] = 0x00;
		mac[2] = 0x5e;
		mac[3] = low >> 16 & 0x7f;
		mac[4] = low >> 8;
		mac[5] = low;
	}
	return to_group(skb, h, mac);
}

static __always_inline int is_group_v6(const union addr *dst)
{
	return (dst->w[0] & bpf_htonl(0xff000000)) == bpf_htonl(0xff000000);
}

static __always_inline int to_group_v6(struct __sk_buff *skb, const struct host *h, const union addr *dst)
{
	__u8 mac[ETH_ALEN] = {0x33, 0x33};

	__builtin_memcpy(mac + 2, &dst->w[3], 4);
	return to_group(skb, h, mac);
}

/* Is it not on the uplink's network? */
static __always_inline int beyond_v6(const struct host *h, const union addr *dst)
{
	return (dst->d[0] ^ h->v6_net.d[0]) & h->v6_mask.d[0] || (dst->d[1] ^ h->v6_net.d[1]) & h->v6_mask.d[1];
}

/* Only ever on the link, whatever the routes to other places are. */
static __always_inline int is_link_local(const union addr *dst)
{
	return (dst->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Out of the uplink by the host's routes. The kernel answers with an ICMP error only what was addressed to this host. */
static __always_inline int by_route(struct __sk_buff *skb, const struct host *h)
{
	bpf_skb_change_type(skb, 0 /* PACKET_HOST */);
	return bpf_redirect_neigh(h->uplink, 0, 0, 0);
}

/* Out of the uplink. Giving the next hop spares redirect_neigh its route lookup, 5 to 7 % of a small packet, and takes away
 * its way to tell the sender that the next hop does not answer. So only a gateway's is given, which does, and `ask`
 * says not to: for what begins a conversation. */
static __always_inline int to_world_v4(struct __sk_buff *skb, const struct host *h, __u32 n, __u32 dst, __u32 ask)
{
	struct bpf_redir_neigh nh = {.nh_family = 2 /* AF_INET */};

	if (h->flags & HOST_FAIR)
		skb->priority = UPLINK_FLOW(n);

	if (is_group_v4(h, dst))
		return to_group_v4(skb, h, dst);
	if (ask || !(h->flags & HOST_NEXTHOP_V4) || !((dst ^ h->v4_net) & h->v4_mask))
		return by_route(skb, h);
	nh.ipv4_nh = h->v4_gw;
	return bpf_redirect_neigh(h->uplink, &nh, sizeof(nh), 0);
}

static __always_inline int to_world_v6(struct __sk_buff *skb, const struct host *h, __u32 n, const union addr *dst,
				       __u32 ask)
{
	struct bpf_redir_neigh nh = {.nh_family = 10 /* AF_INET6 */};

	if (h->flags & HOST_FAIR)
		skb->priority = UPLINK_FLOW(n);

	if (is_group_v6(dst))
		return to_group_v6(skb, h, dst);
	if (ask || !(h->flags & HOST_NEXTHOP_V6) || is_link_local(dst) || !beyond_v6(h, dst))
		return by_route(skb, h);
	__builtin_memcpy(nh.ipv6_nh, &h->v6_gw, sizeof(h->v6_gw));
	return bpf_redirect_neigh(h->uplink, &nh, sizeof(nh), 0);
}

/* A frame larger than the uplink takes, or one that would be cut into such frames: some drivers hang on it, so it ends
 * here. */
static __always_inline int oversize(struct __sk_buff *skb, const struct host *h, __u32 l4, __u32 tcp)
{
	if (skb->len <= h->mtu + ETH_HLEN)
		return 0;
	return !skb->gso_size || headers_of(skb, l4, tcp) + skb->gso_size > h->mtu + ETH_HLEN;
}

/* No gateway, and not a neighbour: nobody to hand it to. */
static __always_inline int unreachable_v4(const struct host *h, __u32 dst)
{
	return h->flags & HOST_NEXTHOP_V4 && !h->v4_gw && (dst ^ h->v4_net) & h->v4_mask && !is_group_v4(h, dst);
}

static __always_inline int unreachable_v6(const struct host *h, const union addr *dst)
{
	return h->flags & HOST_NEXTHOP_V6 && !h->v6_gw.d[0] && !is_group_v6(dst) && !is_link_local(dst) &&
	       beyond_v6(h, dst);
}
