/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Ports that sockets hold: claiming one, counting its sockets, and giving it back when Linux would. Nothing here waits, and nobody
 * ever holds a port half: a word (ports.h) is claimed and counted by one compare-and-swap, and while a count stands in it nobody
 * takes it from its owner. So further sockets are added, and looked at afterwards: what was added to a word that changed hands in
 * between is taken off again.
 */
#pragma once

#include "ports.h"

#define ONE (1ULL << COUNT_AT)
#define MOST (1ULL << 27)	/* sockets of one port: half of what there is room for, so that no count ever turns over */

#define TIME_WAIT_UNITS 16	/* TCP_TIMEWAIT_LEN, 60 s, in units of 4.3 s and one that has begun */
#define FIN_WAIT_UNITS 30	/* twice as long: net.ipv4.tcp_fin_timeout comes before it */

/* What a container may claim by bind(). */
struct offer {
	__u32 limit;		/* ports at one time, both protocols and resting ones together */
	__u32 pad;
	__u64 set[NUMBERS / 64];
};

/* What it has claimed. Ports that rest are counted by when they stop: nobody tells when one does. */
struct claiming {
	__u64 held;
	__u64 rests[2];		/* of a span of time << 32 | how many, the span's lowest bit chooses which */
	__u64 made;		/* since the slot has its tenant */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct offer);
} offers SEC(".maps");

ARRAY(claiming, MAX_SLOTS, struct claiming, BPF_F_MMAPABLE);

_Static_assert(sizeof(struct claiming) == 32 && sizeof(struct offer) == 8 + NUMBERS / 8, "claims.rs");

static __always_inline __u64 *word_of(__u32 key)
{
	return bpf_map_lookup_elem(&ports, &key);
}

static __always_inline __u64 read_word(const __u64 *word)
{
	return *(const volatile __u64 *)word;
}

static __always_inline __u32 slot_in(__u64 w)
{
	return w & 0xffff;
}

static __always_inline __u64 count_in(__u64 w)
{
	return w >> COUNT_AT;
}

static __always_inline __u32 is_claimed(__u64 w)
{
	return (w & CLAIMED) != 0;
}

static __always_inline __u32 is_leased(__u64 w)
{
	return !(w & CLAIMED) && (__u32)w;
}

/* Leased to whom? */
static __always_inline __u32 tenant_in(__u64 w)
{
	return slot_in(w) ? slot_in(w) : (__u32)w >> SECOND_AT;
}

/* Do sockets of this slot hold it now? */
static __always_inline __u32 is_held_by(__u64 w, __u32 slot)
{
	return is_claimed(w) && slot_in(w) == slot && (count_in(w) || w & LOOK);
}

static __always_inline __u16 rest_clock(void)
{
	return bpf_ktime_get_ns() >> REST_UNIT;
}

static __always_inline __u16 rest_in(__u64 w)
{
	return w >> SECOND_AT;
}

/* Deadlines lie REST_MOST ahead at most: one that looks farther away is long past. */
static __always_inline __u32 is_resting(__u64 w, __u16 now)
{
	__u16 left = rest_in(w) - now;

	return rest_in(w) && left && left <= REST_MOST;
}

/* Has nobody a claimed port any more? */
static __always_inline __u32 is_past(__u64 w, __u16 now)
{
	return is_claimed(w) && !count_in(w) && !(w & LOOK) && !is_resting(w, now);
}

static __always_inline struct claiming *claiming_of(__u32 slot)
{
	return bpf_map_lookup_elem(&claiming, &slot);
}

/* The spans of time by which resting ports are counted are as long as the longest rest. */
static __always_inline __u32 span_of(__u16 until)
{
	return until / REST_MOST;
}

static __always_inline __u64 rests_in_span(const struct claiming *c, __u32 span)
{
	__u64 rests = span & 1 ? c->rests[1] : c->rests[0];

	return rests >> 32 == span ? (__u32)rests : 0;
}

/* One port more that rests, or less (`by` 1 or -1). Whoever is counted into a new span begins its count; of two at one moment one
 * may be lost, and nobody gets more than one port by that. */
static __always_inline void count_rest(struct claiming *c, __u16 until, int by)
{
	__u32 span = span_of(until);
	__u64 *rests = span & 1 ? &c->rests[1] : &c->rests[0], then = read_word(rests);

	if (then >> 32 != span) {
		if (by > 0)
			__sync_val_compare_and_swap(rests, then, (__u64)span << 32 | 1);
	} else if (by > 0 || (__u32)then) {
		__sync_fetch_and_add(rests, (__u64)(__s64)by);
	}
}

/* May container `slot` claim this number? */
static __always_inline __u32 is_offered(const struct offer *offer, __u16 port)
{
	return offer->set[port / 64] >> port % 64 & 1;
}

/* Counts one port more that container `slot` holds. 0: it has as many as it may. */
static __always_inline __u32 holds_one_more(struct claiming *c, const struct offer *offer, __u16 now)
{
	__u64 others = rests_in_span(c, span_of(now)) + rests_in_span(c, (span_of(now) + 1) % (NUMBERS / REST_MOST));

	/* signed: a close, an accept and a bind at one moment may count one less than there are, for that moment or for good */
	if ((__s64)(__sync_fetch_and_add(&c->held, 1) + others) < (__s64)(__u64)offer->limit)
		return 1;
	__sync_fetch_and_sub(&c->held, 1);
	return 0;
}

/* One socket more on a port that sockets of `slot` hold. 0: they do not. */
static __always_inline __u32 add_to(__u64 *word, __u32 slot)
{
	__u64 then = read_word(word);

	if (!is_held_by(then, slot) || count_in(then) >= MOST)
		return 0;
	then = __sync_fetch_and_add(word, ONE);
	if (is_held_by(then, slot))
		return 1;
	__sync_fetch_and_sub(word, ONE);
	return 0;
}

/* Sees to it that the port rests for so many units once no socket holds it. Whoever counts meanwhile is in the way of one attempt
 * only, and the last socket is alone. */
static __always_inline void let_rest(__u64 *word, __u32 slot, __u32 units)
{
	__u16 until = rest_clock() + units, later;

	until = until ? until : 1;
#pragma unroll
	for (int i = 0; i < 3; i++) {
		__u64 w = read_word(word);

		later = rest_in(w) - until;
		/* it rests as long already */
		if (!is_held_by(w, slot) || (rest_in(w) && later <= REST_MOST))
			return;
		if (__sync_val_compare_and_swap(word, w, (w & ~0xffff0000ULL) | (__u64)until << SECOND_AT) == w)
			return;
	}
}

/* What stands in a word that was `slot`'s and is nobody's from now on. A TCP socket sends its last packet, a RST, when it is closed
 * already (tcp_disconnect, inet_csk_listen_stop), and what comes for it then is still for that namespace: so the port goes on leading
 * to its last holder, with a rest that is over at once, until somebody claims it or user space looks. Of UDP those who share it with
 * him may wait in the host. */
static __always_inline __u64 nobodys_after(__u32 key, __u32 slot, __u16 now)
{
	return slot == HOST || key >= UDP_HALF ? 0 : CLAIMED | slot | (__u64)(now ? now : 1) << SECOND_AT;
}

/* One socket less on a port of `slot`. The last one gives it back, unless connections may be in TIME_WAIT there (`rest`, units). */
static __noinline int let_go(__u32 key, __u32 slot, __u32 rest)
{
	__u64 *word = word_of(key), w;
	struct claiming *c;
	__u16 now;

	if (!word || !is_held_by(read_word(word), slot) || !count_in(read_word(word)))
		return 0;
	if (rest)
		let_rest(word, slot, rest);
	w = __sync_fetch_and_sub(word, ONE);
	if (!is_held_by(w, slot) || !count_in(w)) {
		__sync_fetch_and_add(word, ONE);
		return 0;
	}
	w -= ONE;
	if (count_in(w) || w & LOOK)
		return 0;
	c = slot == HOST ? 0 : claiming_of(slot);
	if (c)
		__sync_fetch_and_sub(&c->held, 1);
	now = rest_clock();
	if (!is_resting(w, now))
		__sync_val_compare_and_swap(word, w, nobodys_after(key, slot, now));
	else if (c)
		count_rest(c, rest_in(w), 1);
	return 0;
}

enum claim { CLAIM_HELD, CLAIM_REFUSED, CLAIM_SHARED, CLAIM_AGAIN };

/* Who wants which port. */
struct claimant {
	__u32 key;
	__u32 slot;
	__u32 reuse;		/* REUSE would be true of it */
};

/* One attempt. CLAIM_AGAIN: the word changed in between. */
static __always_inline enum claim try_claim(__u64 *word, const struct claimant *who, struct claiming *c, const struct offer *offer)
{
	__u64 w = read_word(word), new, rest;
	__u32 udp = who->key >= UDP_HALF, mine, rests;
	__u16 now = rest_clock();

	mine = is_claimed(w) && slot_in(w) == who->slot;
	if (mine && count_in(w)) {
		if (!add_to(word, who->slot))
			return count_in(w) >= MOST ? CLAIM_REFUSED : CLAIM_AGAIN;
		if (!who->reuse)
			__sync_fetch_and_and(word, ~REUSE);
		return CLAIM_HELD;
	}
	if (is_leased(w))
		return CLAIM_REFUSED;
	rests = is_claimed(w) && is_resting(w, now);
	if (is_claimed(w) && !mine) {
		/* datagrams are everybody's who shares the port, and come to whoever had it first */
		if (count_in(w) || w & LOOK)
			return udp && who->reuse && w & REUSE ? CLAIM_SHARED : CLAIM_REFUSED;
		if (rests && !(who->reuse && w & REUSE))
			return CLAIM_REFUSED;
	}
	/* what is kept for its own connections in TIME_WAIT goes on resting */
	rest = rests ? w & 0xffff0000ULL : 0;
	new = CLAIMED | who->slot | rest;
	if (who->reuse && (!rests || w & REUSE))
		new |= REUSE;
	if (mine)
		new |= w & LOOK;
	/* a socket that is just being counted at a free port takes its count back itself */
	new |= (is_claimed(w) ? 0 : w & ~(ONE - 1)) + ONE;
	if (c && !(mine && w & LOOK)) {
		if (mine && rests)
			__sync_fetch_and_add(&c->held, 1);
		else if (!offer || !holds_one_more(c, offer, now))
			return CLAIM_REFUSED;
	}
	if (__sync_val_compare_and_swap(word, w, new) == w) {
		struct claiming *of = is_claimed(w) && rests && slot_in(w) != HOST ? claiming_of(slot_in(w)) : 0;

		if (of && !(w & LOOK))
			count_rest(of, rest_in(w), -1);
		if (c)
			__sync_fetch_and_add(&c->made, 1);
		return CLAIM_HELD;
	}
	if (c && !(mine && w & LOOK))
		__sync_fetch_and_sub(&c->held, 1);
	return CLAIM_AGAIN;
}

/* Claims a port for a socket that was bound to it, and counts the socket. The port is not leased. */
static __noinline int claim(struct claimant *who)
{
	struct claiming *c = 0;
	struct offer *offer = 0;
	enum claim done = CLAIM_AGAIN;
	__u64 *word;

	if (!who)
		return CLAIM_REFUSED;
	word = word_of(who->key);
	if (!word)
		return CLAIM_REFUSED;
	if (who->slot != HOST) {
		offer = bpf_map_lookup_elem(&offers, &who->slot);
		c = claiming_of(who->slot);
		if (!c)
			return CLAIM_REFUSED;
		if (offer && !is_offered(offer, who->key))
			offer = 0;
	}
	done = try_claim(word, who, c, offer);
	if (done == CLAIM_AGAIN)
		done = try_claim(word, who, c, offer);
	if (done == CLAIM_AGAIN)
		done = try_claim(word, who, c, offer);
	return done == CLAIM_AGAIN ? CLAIM_REFUSED : done;
}
