/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * The two things a packet does not carry a port for: echo identifiers and later fragments.
 *
 * What is remembered of a packet from outside stands in buckets, chosen by a hash that nobody outside can foretell. Whoever is
 * new in a full bucket takes the place of what is too old to count, else one of its own, else the oldest: a flood towards one
 * container, or by one, pushes out its own and nobody else's.
 *
 * Places are looked through without branches: a verifier follows each branch, and sixteen in a row are 65 536 ways through.
 */
#pragma once

#include "parse.h"

static __always_inline struct slot *slot_of(__u32 n)
{
	return bpf_map_lookup_elem(&slots, &n);
}

/* Hides from the compiler what is known of a value, or it would make branches of what comes of it. */
#define VEIL(value) asm volatile("" : "+r"(value))

/* 1 or 0. */
static __always_inline __u64 is_set(__u64 value)
{
	value |= -value;
	VEIL(value);
	value >>= 63;
	VEIL(value);
	return value;
}

static __always_inline __u64 is_same(__u64 a, __u64 b)
{
	return is_set(a ^ b) ^ 1;
}

/* Of numbers that are less than 2^63 apart. */
static __always_inline __u64 is_less(__u64 a, __u64 b)
{
	a -= b;
	VEIL(a);
	a >>= 63;
	VEIL(a);
	return a;
}

static __always_inline __u64 choose(__u64 a, __u64 b, __u64 second)
{
	return a ^ ((a ^ b) & -second);
}

/* How good a place is for something new. Places are compared as numbers; the lowest six bits are for which one it is. */
static __always_inline __u64 place(__u64 same, __u64 free, __u64 own, __u64 age)
{
	__u64 grade = choose(choose(own, 2, free), 3, same);

	return grade << 61 | (age & 0xffffffffff) << 6;
}

static __always_inline __u64 better(__u64 a, __u64 b)
{
	return choose(a, b, is_less(a, b));
}

static __always_inline __u64 stir(__u64 h, __u64 value)
{
	h = (h ^ value) * 0x9e3779b97f4a7c15ULL;
	return h ^ h >> 32;
}

/* Where hashes begin: a number that no packet tells, drawn when it is needed first. */
static __noinline __u64 seed(void)
{
	__u32 last = FRAGMENT_BUCKETS;
	struct fragment_bucket *b = bpf_map_lookup_elem(&fragments_in, &last);

	if (!b)
		return 0;
	if (!b->way[0].tag)
		b->way[0].tag = (__u64)bpf_get_prandom_u32() << 32 | bpf_get_prandom_u32() | 1;
	return b->way[0].tag;
}

/* Of a pair that an echo is known by: below, the bucket; above, the tag. */
static __noinline __u64 echo_digest(const union addr *remote, __u32 id)
{
	return stir(stir(stir(seed(), remote->d[0]), remote->d[1]), id);
}

static __always_inline __u32 echo_tag(__u64 digest)
{
	return digest >> 32;
}

static __always_inline struct echo_bucket *echo_bucket(__u64 digest)
{
	__u32 key = digest % ECHO_BUCKETS;

	return bpf_map_lookup_elem(&echoes, &key);
}

static __always_inline __u32 now(void)
{
	return bpf_ktime_get_ns() >> 28;
}

static __noinline __u64 echo_place(const struct echo_way *way, __u32 n, __u32 tag, __u32 t)
{
	__u64 age = (__u32)(t - way->seen), own = is_same(way->slot, n);
	__u64 free = is_less(ECHO_LIFETIME, age) | is_same(way->slot, 0);

	return place(own & is_same(way->tag, tag), free, own, age);
}

/* Notes that container `n` asks for an echo. */
APART int echo_asked(__u32 n, __u32 epoch)
{
	struct packet *p = packet(OUTER);
	struct echo_bucket *b;
	struct echo_way *way;
	__u64 digest, best = 0;
	__u32 t = now();

	if (!p)
		return 0;
	digest = echo_digest(&p->dst, p->sport);
	b = echo_bucket(digest);
	if (!b)
		return 0;
#pragma unroll
	for (int i = 0; i < ECHO_WAYS; i++)
		best = better(best, echo_place(&b->way[i], n, echo_tag(digest), t) | i);
	way = &b->way[best % ECHO_WAYS];
	way->slot = 0;
	way->tag = echo_tag(digest);
	way->epoch = epoch;
	way->seen = t;
	way->slot = n;
	b->newest = t;
	return 0;
}

/* The container that asked, by one place of a bucket; 0: none. */
static __noinline __u32 echo_asker(const struct echo_way *way, __u32 tag)
{
	struct slot *s;

	if (!way->slot || way->tag != tag || now() - way->seen > ECHO_LIFETIME)
		return 0;
	s = slot_of(way->slot);
	return s && s->epoch == way->epoch ? way->slot : 0;
}

static __always_inline struct fragment_cells *fragment_cells(__u32 n)
{
	return bpf_map_lookup_elem(&fragments_out, &n);
}

static __always_inline __u64 same_datagram(const struct fragment_cell *c, __u32 epoch, const struct packet *p)
{
	return is_same(c->id, p->frag_id) & is_same(c->epoch, epoch) & is_same(c->proto, datagram_proto(p)) &
	       is_same(c->dst.d[0], p->dst.d[0]) & is_same(c->dst.d[1], p->dst.d[1]);
}

/* What a cell says: does a receiver still wait for the rest of its datagram (1), is that the datagram of `p` (2), and above
 * these eight bits how much of it was sent. */
static __noinline __u64 cell_says(const struct fragment_cell *c, __u32 epoch, const struct packet *p, __u64 t)
{
	__u64 open = is_set(c->state) & is_same(c->epoch, epoch) & is_less(t - c->seen, FRAGMENT_HELD);
	__u64 same = same_datagram(c, epoch, p) & (is_same(c->state, FRAGMENT_LEFT) ^ 1);

	return (open | same << 1 | (__u64)c->next << 8) & -open;
}

/* Is a first fragment recent enough to count? Another processor may have seen it after `t` was read. */
static __always_inline __u64 recent(__u64 seen, __u64 t)
{
	return is_less(t - FRAGMENT_LIFETIME, seen);
}

static __always_inline void fragment_open(struct fragment_cell *c, __u32 epoch, const struct packet *p, __u32 to)
{
	c->state = FRAGMENT_DONE;
	c->dst = p->dst;
	c->seen = bpf_ktime_get_ns();
	c->id = p->frag_id;
	c->epoch = epoch;
	c->to = to;
	c->proto = datagram_proto(p);
	c->next = p->frag_len;
	c->sport = p->sport;
	c->dport = p->dport;
	c->state = p->sound && p->more ? FRAGMENT_OPEN : FRAGMENT_DOUBTFUL;
}

/* A first fragment of container `n` that goes to `to`: its later ones follow it, and no longer an older datagram's. -1: it
 * must not go, since too much that this container began is unfinished. Two processors may take one cell; then one datagram of this
 * container is lost, which is why each begins its search elsewhere. */
APART int fragment_begins(__u32 n, __u32 epoch, __u32 to)
{
	__u64 t = bpf_ktime_get_ns(), bytes, older = 0, best = 0;
	__u32 first = bpf_get_smp_processor_id();
	struct fragment_cells *b = fragment_cells(n);
	struct packet *p = packet(OUTER);

	if (!b || !p)
		return -1;
	bytes = p->frag_len;
#pragma unroll
	for (int i = 0; i < FRAGMENT_CELLS; i++) {
		__u64 says = cell_says(&b->cell[i], epoch, p, t);

		bytes += says >> 8;
		older = better(older, place(says >> 1 & 1, 0, 0, 0) | i);
		best = better(best, place(0, (says & 1) ^ 1, 0, (first - i) % FRAGMENT_CELLS) | i);
	}
	if (!(best >> 61) || bytes > FRAGMENT_BYTES)
		return -1;
	if (older >> 61)
		b->cell[older % FRAGMENT_CELLS].state = FRAGMENT_LEFT;
	fragment_open(&b->cell[best % FRAGMENT_CELLS], epoch, p, to);
	return 0;
}

/* Where a later fragment of container `n` goes: where the first one of its datagram went, whose ports it gets. -1: there was none,
 * or it is not the next part, or more would be unfinished than may be. A sender's stack sends the parts in their order. */
APART int fragment_follows(__u32 n, __u32 epoch)
{
	struct fragment_cells *b = fragment_cells(n);
	__u64 t = bpf_ktime_get_ns(), bytes, best = 0;
	struct packet *p = packet(OUTER);
	struct fragment_cell *c;

	if (!b || !p)
		return -1;
	bytes = p->frag_len;
#pragma unroll
	for (int i = 0; i < FRAGMENT_CELLS; i++) {
		__u64 says = cell_says(&b->cell[i], epoch, p, t);

		bytes += says >> 8;
		best = better(best, place(says >> 1 & 1, 0, 0, 0) | i);
	}
	c = &b->cell[best % FRAGMENT_CELLS];
	if (!(best >> 61) || !recent(c->seen, t) || p->frag_off != c->next || bytes > FRAGMENT_BYTES ||
	    p->frag_off + p->frag_len > 65535)
		return -1;
	p->sport = c->sport;
	p->dport = c->dport;
	c->next += p->frag_len;
	if (!p->sound)
		c->state = FRAGMENT_DOUBTFUL;
	else if (!p->more && c->state == FRAGMENT_OPEN)
		c->state = FRAGMENT_DONE;
	return c->to;
}

/* Of a later fragment that container `n` sends and that passed its walls: the ports of its datagram. */
APART int fragment_ports(__u32 n)
{
	struct fragment_cells *b = fragment_cells(n);
	struct packet *p = packet(OUTER);
	struct slot *s = slot_of(n);
	struct fragment_cell *c;
	__u64 best = 0;

	if (!b || !p || !s)
		return 0;
#pragma unroll
	for (int i = 0; i < FRAGMENT_CELLS; i++)
		best = better(best, place(same_datagram(&b->cell[i], s->epoch, p), 0, 0, b->cell[i].seen >> 10) | i);
	c = &b->cell[best % FRAGMENT_CELLS];
	if (best >> 61) {
		p->sport = c->sport;
		p->dport = c->dport;
	}
	return 0;
}

/* A first fragment of container `n` leaves its lo for `to`. Nobody is harmed by what is unfinished here: from_container sees
 * the same packets. */
APART int fragment_left_lo(__u32 n, __u32 epoch, __u32 to)
{
	struct fragment_cells *b = fragment_cells(n);
	__u64 t = bpf_ktime_get_ns(), best = 0;
	struct packet *p = packet(OUTER);

	if (!b || !p)
		return 0;
#pragma unroll
	for (int i = 0; i < FRAGMENT_LOOPED; i++)
		best = better(best, place(0, recent(b->looped[i].seen, t) ^ 1, 0, (t - b->looped[i].seen) >> 10) | i);
	fragment_open(&b->looped[best % FRAGMENT_LOOPED], epoch, p, to);
	return 0;
}

/* Did the first fragment of a later one leave lo? */
APART int fragment_leaves_lo(__u32 n, __u32 epoch)
{
	struct fragment_cells *b = fragment_cells(n);
	__u64 t = bpf_ktime_get_ns(), any = 0;
	struct packet *p = packet(OUTER);

	if (!b || !p)
		return 0;
#pragma unroll
	for (int i = 0; i < FRAGMENT_LOOPED; i++)
		any |= cell_says(&b->looped[i], epoch, p, t) >> 1 & recent(b->looped[i].seen, t);
	return any;
}

/* Of a datagram on its way to a container. `origin`: 0 the wire, 1 host lo. */
static __noinline __u64 fragment_digest(const struct packet *p, __u32 origin)
{
	__u64 h = stir(stir(seed(), p->src.d[0]), p->src.d[1]);

	h = stir(stir(h, p->dst.d[0]), p->dst.d[1]);
	/* an id counts up in its last bytes; what is above these does not reach the lowest bits of a product */
	return stir(h, (__u64)(origin << 8 | datagram_proto(p)) << 32 | bpf_ntohl(p->frag_id));
}

static __always_inline struct fragment_bucket *fragment_bucket(__u64 digest)
{
	__u32 key = digest % FRAGMENT_BUCKETS;

	return bpf_map_lookup_elem(&fragments_in, &key);
}

static __noinline __u64 fragment_place(const struct fragment_way *way, __u64 tag, __u32 to, __u64 t)
{
	return place(is_same(way->tag, tag), recent(way->seen, t) ^ 1, is_same(way->to, to), (t - way->seen) >> 10);
}

/* A first fragment came that goes to `to`, 0 the host: its later ones follow it, and no longer an older datagram's. `epoch`
 * is that of the slot, or the tag of an answer. */
APART int fragment_came(__u64 digest, __u32 to, __u32 epoch)
{
	struct fragment_bucket *b = fragment_bucket(digest);
	__u64 t = bpf_ktime_get_ns(), best = 0;
	struct fragment_way *way;

	if (!b)
		return 0;
#pragma unroll
	for (int i = 0; i < FRAGMENT_WAYS; i++)
		best = better(best, fragment_place(&b->way[i], digest, to, t) | i);
	way = &b->way[best % FRAGMENT_WAYS];
	if (!to && way->tag != digest)
		return 0;
	way->seen = 0;
	if (!to)
		return 0;
	way->tag = digest;
	way->to = to;
	way->epoch = epoch;
	way->seen = t;
	return 0;
}

/* Where a later fragment goes, as in fragment_way.to: where its first one went. 0: the host. */
static __noinline __u32 fragment_owner(__u64 digest, __u32 *epoch)
{
	struct fragment_bucket *b = fragment_bucket(digest);
	__u64 t = bpf_ktime_get_ns(), best = 0;
	struct fragment_way *way;

	if (!b)
		return 0;
#pragma unroll
	for (int i = 0; i < FRAGMENT_WAYS; i++)
		best = better(best, place(is_same(b->way[i].tag, digest), 0, 0, 0) | i);
	way = &b->way[best % FRAGMENT_WAYS];
	if (way->tag != digest || !way->seen || !recent(way->seen, t))
		return 0;
	*epoch = way->epoch;
	return way->to;
}
