/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Where a packet goes on this host once it is known whose it is, and the counters on the way. Bytes are counted as on the wire:
 * a GSO or GRO packet counts as the segments it stands for, each with its own headers.
 */
#pragma once

#include "track.h"

#define LOOPBACK 1		/* ifindex of lo in every network namespace (LOOPBACK_IFINDEX) */
#define SHARED 0		/* key of single-entry maps */


#define KEEP 0x70736c6f		/* mark: a program here gave this to the device, and must not take it again */

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

static __always_inline __u32 port_slot(__u16 port, __u8 proto)
{
	__u32 key = port_key(port, proto);
	__u64 *word = bpf_map_lookup_elem(&ports, &key);

	return word ? (__u16)*word : 0;
}

/* ADDRESS_*, or 0. */
static __always_inline __u32 address_kind(const union addr *a)
{
	struct whose *whose = bpf_map_lookup_elem(&addresses, a);

	return whose ? whose->kind : 0;
}

static __always_inline __u32 address_kind_v4(const struct host *h, __u32 v4)
{
	union addr a;

	if (v4 == h->v4)
		return v4 ? ADDRESS_CARRIED : 0;	/* 0.0.0.0 stands for none */
	if (h->flags & HOST_ONE_V4)
		return 0;
	map_v4(&a, v4);
	return address_kind(&a);
}

/* ADDRESS_CARRIED, ADDRESS_OF_HOST, or 0 for an address that is not the host's. */
static __always_inline __u32 host_address(const union addr *a)
{
	return address_kind(a) & ~ADDRESS_OF_MANY;
}

static __always_inline __u32 host_address_v4(const struct host *h, __u32 v4)
{
	return address_kind_v4(h, v4) & ~ADDRESS_OF_MANY;
}

static __always_inline __u32 host_address_v6(const struct host *h, const union addr *a)
{
	if (same(a, &h->v6))
		return a->d[0] | a->d[1] ? ADDRESS_CARRIED : 0;
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
	return address_kind_v4(h, src);
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

/* From a device of the host into container `n`. */
static __always_inline int to_container(struct __sk_buff *skb, const struct host *h, __u32 n, __u32 l4, __u32 tcp)
{
	struct slot *s = running(n);

	if (!s)
		return PASS;
	received(n, skb, l4, tcp);
	if (limits(s, 0)) {
		skb->priority = ingress_class(s);
		/* the walk through the veth looks at the MAC again, and another device than the uplink has another one */
		if (skb->ifindex != h->uplink && bpf_skb_store_bytes(skb, 0, h->mac, sizeof(h->mac), 0) < 0)
			return DROP;
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
