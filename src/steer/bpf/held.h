/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Later fragments that came from the wire before their first one. Only that tells whose they are, so copies of a few are kept
 * until it comes. The host's stack gets each of them as well: the datagram may be the host's own.
 *
 * Places are chosen as in track.h. A flood of what nothing precedes pushes out what others have here, as it fills the host's memory
 * for reassembly, which all senders share, too.
 */
#pragma once

#include "deliver.h"

#define LONGEST_V4 60		/* bytes of an IPv4 header with all options */

static __always_inline struct held_bucket *held_bucket(__u64 digest)
{
	__u32 key = digest % HELD_BUCKETS;

	return bpf_map_lookup_elem(&held, &key);
}

/* Copies `bytes` of a packet, from its IP header on. Functions of their own: the verifier has to see the bounds of that number,
 * and before Linux 6.3 learns nothing of what it is not. */
static __noinline int take(struct __sk_buff *skb, void *to, __u64 bytes)
{
	if (bytes < sizeof(struct iphdr) || bytes > HELD_BYTES)
		return -1;
	return bpf_skb_load_bytes(skb, ETH_HLEN, to, bytes);
}

/* Makes these the bytes of the packet, of which there are `least` at least: the kernel cuts no packet off before the place where
 * its transport header was, and no receiver looks at what is behind the end of an IP packet. */
static __noinline int put(struct __sk_buff *skb, const void *from, __u64 bytes, __u64 least)
{
	if (bytes < sizeof(struct iphdr) || bytes > HELD_BYTES ||
	    bpf_skb_change_tail(skb, ETH_HLEN + (bytes > least ? bytes : least), 0) < 0)
		return -1;
	return bpf_skb_store_bytes(skb, ETH_HLEN, from, bytes, BPF_F_RECOMPUTE_CSUM);
}

APART int hold(struct __sk_buff *skb, __u64 digest)
{
	__u64 t = bpf_ktime_get_ns(), best = 0;
	struct held_bucket *b = held_bucket(digest);
	__u32 bytes = skb->len - ETH_HLEN;
	struct held *way;

	if (!b)
		return 0;
#pragma unroll
	for (int i = 0; i < HELD_WAYS; i++)
		best = better(best, place(0, recent(b->way[i].seen, t) ^ 1, 0, (t - b->way[i].seen) >> 10) | i);
	way = &b->way[best % HELD_WAYS];
	__sync_fetch_and_add(&way->writers, 1);
	if (way->writers == 1) {
		way->seen = 0;
		if (!take(skb, way->bytes, bytes)) {
			way->tag = digest;
			way->len = bytes;
			way->seen = t;
		}
	}
	__sync_fetch_and_add(&way->writers, -1);
	return 0;
}

/* Whose a later fragment is. One that is nobody's yet is kept, if it may be, and then looked up again: its first one may have come
 * meanwhile. */
static __always_inline __u32 later(struct __sk_buff *skb, __u64 digest, __u32 *epoch, __u32 may)
{
	__u32 to = fragment_owner(digest, epoch);

	if (to || !may)
		return to;
	hold(skb, digest);
	return fragment_owner(digest, epoch);
}

static __always_inline int is_held(const struct held *way, __u64 digest, __u64 t)
{
	return way->tag == digest && way->seen && recent(way->seen, t) && !way->writers;
}

/* Makes of a first fragment the later one that is kept in `way`, for as long as it takes to send a copy of that to container
 * `n`. -1: it could not be made what it was. */
static __noinline int send_held(struct __sk_buff *skb, struct host *h, __u32 n, struct held *way)
{
	__u32 bytes = skb->len - ETH_HLEN, key = SHARED, priority = skb->priority;
	struct frame *first = bpf_map_lookup_elem(&aside, &key);
	__u8 mac[ETH_ALEN];
	int made;

	if (!first || bpf_skb_load_bytes(skb, 0, mac, sizeof(mac)) < 0 || take(skb, first->bytes, bytes) < 0)
		return 0;
	made = put(skb, way->bytes, way->len, LONGEST_V4);
	if (!made && !way->writers)
		copy_to_container(skb, h, n);
	skb->priority = priority;
	if (bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0) < 0)
		return -1;
	return put(skb, first->bytes, bytes, 0);
}

/* The first fragment of a datagram: what of it came before goes along, if it is for container `n`; the host, 0, has it already. */
APART int bring_held(struct __sk_buff *skb, __u32 n, __u64 digest)
{
	struct held_bucket *b = held_bucket(digest);
	struct host *h = host_facts();
	__u64 t = bpf_ktime_get_ns();

	if (!b || !h)
		return 0;
#pragma unroll
	for (int i = 0; i < HELD_WAYS; i++) {
		if (!is_held(&b->way[i], digest, t))
			continue;
		b->way[i].seen = 0;
		if (n && send_held(skb, h, n, &b->way[i]) < 0)
			return -1;
	}
	return 0;
}
