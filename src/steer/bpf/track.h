/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * The two things a packet does not carry a port for: echo identifiers and later fragments. Memory is set aside per
 * container, so one container can neither push out nor take over what belongs to another.
 */
#pragma once

#include "parse.h"

static __always_inline __u32 now(void)
{
	return bpf_ktime_get_ns() >> 30;
}

static __always_inline __u32 mix(const union addr *a, __u32 id)
{
	__u32 h = a->w[0] ^ a->w[1] ^ a->w[2] ^ a->w[3] ^ id * 0x9e3779b1;

	h ^= h >> 16;
	h *= 0x85ebca6b;
	return h ^ h >> 13;
}

static __always_inline struct slot *slot_of(__u32 n)
{
	return bpf_map_lookup_elem(&slots, &n);
}

static __always_inline struct echo_cell *echo_cell(__u32 n, const union addr *remote, __u32 id)
{
	__u32 i = n * ECHO_CELLS + mix(remote, id) % ECHO_CELLS;

	return bpf_map_lookup_elem(&echo_out, &i);
}

static __always_inline int alive(const struct echo_way *way, __u32 t)
{
	struct slot *s;

	if (!way->slot || t - way->seen > ECHO_LIFETIME)
		return 0;
	s = slot_of(way->slot);
	return s && s->ifindex && s->epoch == way->epoch;
}

static __always_inline int asked(const struct echo_way *way, const union addr *remote, __u32 id)
{
	struct echo_cell *c = echo_cell(way->slot, remote, id);

	return c && c->epoch == way->epoch && c->id == (__u16)id && same(&c->remote, remote);
}

/* Whose echo `id` towards `remote` is: the container that asked. A container that asks many hosts under one id may
 * have forgotten this one; then the id alone decides, if no other container uses it. 0: none of them. */
static __noinline __u32 echo_owner(const union addr *remote, __u32 id)
{
	struct echo_ways *ways = bpf_map_lookup_elem(&echo_ids, &id);
	__u32 t = now(), only = 0, users = 0;

	if (!ways)
		return 0;
#pragma unroll
	for (int i = 0; i < ECHO_WAYS; i++) {
		struct echo_way *way = &ways->way[i];

		if (!alive(way, t))
			continue;
		if (asked(way, remote, id))
			return way->slot;
		only = way->slot;
		users++;
	}
	return users == 1 ? only : 0;
}

/* Notes that container `n` asks `remote` under `id`. -1: another container is asking the same right now. */
static __noinline int echo_claim(__u32 n, __u32 epoch, const union addr *remote, __u32 id)
{
	struct echo_ways *ways = bpf_map_lookup_elem(&echo_ids, &id);
	struct echo_way *mine = 0;
	struct echo_cell *cell;
	__u32 t = now();

	if (!ways)
		return -1;
#pragma unroll
	for (int i = 0; i < ECHO_WAYS; i++) {
		struct echo_way *way = &ways->way[i];

		if (way->slot == n) {
			mine = way;
		} else if (!alive(way, t)) {
			if (!mine)
				mine = way;
		} else if (asked(way, remote, id)) {
			return -1;
		}
	}
	cell = echo_cell(n, remote, id);
	if (!mine || !cell)
		return -1;
	mine->slot = n;
	mine->epoch = epoch;
	mine->seen = t;
	cell->remote = *remote;
	cell->epoch = epoch;
	cell->seen = t;
	cell->id = id;
	return 0;
}

/* Is a first fragment recent enough to count? Another processor may have seen it after `t` was read. */
static __always_inline int recent(__u64 seen, __u64 t)
{
	return (__s64)(t - seen) < FRAGMENT_LIFETIME;
}

static __always_inline struct fragment_cell *fragment_cell(__u32 n, __u32 i)
{
	__u32 key = n * FRAGMENT_CELLS + i % FRAGMENT_CELLS;

	return bpf_map_lookup_elem(&fragments_out, &key);
}

static __always_inline int same_datagram(const struct fragment_cell *c, __u32 epoch, const struct packet *p)
{
	return c->id == p->frag_id && c->epoch == epoch && c->proto == datagram_proto(p) && same(&c->dst, &p->dst);
}

/* A first fragment of container `n` passed: its later ones may follow, to the same place. They take the cells in
 * turn, so the newest datagrams are the ones remembered. Two processors may take the same turn; then one datagram
 * of this container is lost. */
static __noinline int fragment_sent(__u32 n, __u32 epoch, const struct packet *p, __u32 to)
{
	struct fragment_cell *c = fragment_cell(n, 0);
	__u32 turn;

	if (!c)
		return 0;
	turn = c->turn++;
	c = fragment_cell(n, turn);
	if (!c)
		return 0;
	c->dst = p->dst;
	c->seen = bpf_ktime_get_ns();
	c->id = p->frag_id;
	c->epoch = epoch;
	c->to = to;
	c->proto = datagram_proto(p);
	return 0;
}

/* Where a later fragment of container `n` goes: where the newest first one of that id went. -1: there was none. */
static __noinline int fragment_follows(__u32 n, __u32 epoch, const struct packet *p)
{
	__u64 t = bpf_ktime_get_ns(), newest = 0;
	int to = -1;

#pragma unroll
	for (int i = 0; i < FRAGMENT_CELLS; i++) {
		struct fragment_cell *c = fragment_cell(n, i);

		if (c && same_datagram(c, epoch, p) && recent(c->seen, t) && c->seen >= newest) {
			newest = c->seen;
			to = c->to;
		}
	}
	return to;
}

/* A first fragment came for container `slot`, 0 the host: its later ones follow it, and no longer an older datagram's. */
static __noinline int fragment_came(const struct fragment_key *key, __u32 slot, __u32 copy)
{
	struct fragment_first first = {.slot = slot | copy};
	struct slot *s = slot_of(slot);

	if (!slot || !s) {
		bpf_map_delete_elem(&fragments_in, key);
		return 0;
	}
	first.epoch = s->epoch;
	first.seen = bpf_ktime_get_ns();
	bpf_map_update_elem(&fragments_in, key, &first, BPF_ANY);
	return 0;
}

/* The container that a later fragment is for, and COPY: the one its first fragment went to. 0: the host. */
static __noinline __u32 fragment_owner(const struct fragment_key *key)
{
	struct fragment_first *first = bpf_map_lookup_elem(&fragments_in, key);
	struct slot *s;

	if (!first || !recent(first->seen, bpf_ktime_get_ns()))
		return 0;
	s = slot_of(first->slot & (COPY - 1));
	return s && s->epoch == first->epoch ? first->slot : 0;
}
