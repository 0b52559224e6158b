/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Who may bind a port: programs on a cgroup that see every socket of the processes in it and below.
 *
 *   bind4, bind6            before the kernel binds   notes whether a socket shares its port, and counts what the host binds;
 *                                                     refuses nothing
 *   post_bind4, post_bind6  after the kernel bound    refuses a port that is somebody else's with EADDRINUSE, and claims one that
 *                                                     is nobody's (claim.h)
 *   sock_release            close() of the last file  counts a bound socket no more, or lets its connection end first
 *   sock_events             a TCP connection begins or ends: those accepted hold their listener's port as well
 *   keep_range              a setting is written      refuses ports that are not the container's in ip_local_port_range (range.h)
 *
 * A socket belongs to the network namespace in which it was made, and that namespace's cookie says whose it is: one set of
 * programs serves the host and every container. A namespace that is not registered is none of ours, and its sockets are left
 * alone. The kernel takes back the port of a bind that post_bind refuses.
 *
 * The refusal comes after the kernel's own checks, so that every other error of bind() is the kernel's.
 * Kernel: one with bpf_set_retval in post_bind; without it bind() would fail with EPERM.
 */
#include <linux/errno.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#include "claim.h"
#include "range.h"
#include "spaces.h"

#define ALLOW 1
#define REFUSE 0

#define AF_INET 2		/* include/linux/socket.h */
#define SOCK_DGRAM 2		/* include/linux/net.h */
#define SOL_SOCKET 1		/* asm-generic/socket.h */
#define SO_REUSEADDR 2
#define SO_REUSEPORT 15
#define PROTO_TCP 6
#define PROTO_UDP 17

/* slot -> cookie of its network namespace, 0 for none: by it user space finds the entry above */
ARRAY(cookies, MAX_SLOTS, __u64, 0);

/* What is known of a socket that was bound by its owner. An accepted one has no such note. */
struct note {
	__u32 key;		/* of the port that counts it; 0: none does */
	__u32 later;		/* the same, of one that the kernel made: nobody tells of its end unless it listens or connects */
	__u32 state;		/* NOTE_* */
	__u32 epoch;		/* under which lease it was counted: a namespace that lives on may be attached again */
};

#define NOTE_REUSE 1		/* it has SO_REUSEADDR, or shares its port */
#define NOTE_RELEASED 2		/* nobody has it open any more, its connection has to end */
#define NOTE_CLOSED 4		/* its connection has ended, and somebody has it open still */
#define NOTE_LOOK 8		/* its port is looked after because of it */

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, int);
	__type(value, struct note);
} sockets SEC(".maps");

/* Does the loader know where the kernel keeps what is read below? It needs the kernel's own BTF for that. */
const volatile __u32 knows_kernel = 0;

struct sock {
	unsigned int sk_kern_sock : 1;
} __attribute__((preserve_access_index));

static __always_inline __u32 epoch_of(const struct space *space)
{
	return space->slot == HOST ? 0 : space->epoch;
}

static __always_inline int option(struct bpf_sock_addr *ctx, int name)
{
	int value = 0;

	return bpf_getsockopt(ctx, SOL_SOCKET, name, &value, sizeof(value)) == 0 && value;
}

/* The host's binds are counted before the kernel looks for the port: who finds the count as it was after ports were given to a
 * container knows that no socket of the host took one of them meanwhile, and that none will.
 *
 * Only of a port that is not leased it matters whether the socket shares it, so only that costs a note. A note is written at every
 * bind: a socket whose bind was refused keeps the old one, and may have changed its options since. */
static __always_inline int take_note(struct bpf_sock_addr *ctx)
{
	struct space *space = space_of(bpf_get_netns_cookie(ctx));
	__u16 port = bpf_ntohs(ctx->user_port);
	__u32 dgram = ctx->type == SOCK_DGRAM;
	struct note *note;
	int reuse;
	__u64 *word;

	if (!space)
		return ALLOW;
	if (space->slot == HOST && port)
		__sync_fetch_and_add(&space->binds, 1);
	if (!port || !ctx->sk)
		return ALLOW;
	word = word_of(port_key(port, dgram ? PROTO_UDP : PROTO_TCP));
	if (!word || is_leased(read_word(word)))
		return ALLOW;
	reuse = option(ctx, SO_REUSEADDR) || (dgram && option(ctx, SO_REUSEPORT));
	note = bpf_sk_storage_get(&sockets, ctx->sk, 0, reuse ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (note && reuse)
		__sync_fetch_and_or(&note->state, NOTE_REUSE);
	else if (note)
		__sync_fetch_and_and(&note->state, ~NOTE_REUSE);
	return ALLOW;
}

SEC("cgroup/bind4") int bind4(struct bpf_sock_addr *ctx)
{
	return take_note(ctx);
}

SEC("cgroup/bind6") int bind6(struct bpf_sock_addr *ctx)
{
	return take_note(ctx);
}

#define IS(name, i, c) ((name)[i] == (c))

/* Podman and CRI-O bind the ports that they publish themselves, in the host, after a network plugin has leased them to the
 * container: placeholders that nobody is to connect to. Whoever calls himself so in the host only keeps himself from hearing
 * anything. */
static __always_inline int is_placeholder(void)
{
	char name[16] = {};

	if (bpf_get_current_comm(name, sizeof(name)))
		return 0;
	if (IS(name, 0, 'p'))
		return IS(name, 1, 'o') && IS(name, 2, 'd') && IS(name, 3, 'm') && IS(name, 4, 'a') && IS(name, 5, 'n') &&
		       !name[6];
	return IS(name, 0, 'c') && IS(name, 1, 'r') && IS(name, 2, 'i') && IS(name, 3, 'o') && !name[4];
}

static __always_inline int refuse(void)
{
	bpf_set_retval(-EADDRINUSE);
	return REFUSE;
}

/* Did the kernel make the socket itself? MPTCP does, for each of its subflows, and a tunnel by UDP. Nobody closes such a socket by a
 * file. */
static __always_inline int is_kernels(struct bpf_sock *sk)
{
	return knows_kernel && BPF_CORE_READ_BITFIELD_PROBED((struct sock *)sk, sk_kern_sock);
}

/* Nobody tells of the end of a socket that the kernel made, unless it listens or connects: a look at the sockets does. Its port is kept
 * until then. */
static __always_inline void look_after(struct note *note, __u32 key, __u32 slot)
{
	__u64 *word = word_of(key);

	if (word && !(__sync_fetch_and_or(word, LOOK) & LOOK))
		__sync_fetch_and_or(&note->state, NOTE_LOOK);
	if (key < UDP_HALF)
		note->later = key;
	let_go(key, slot, 0);
}

/* Counts a socket that was bound to a port which is not leased. */
static __always_inline int count_bound(struct bpf_sock *sk, const struct claimant *who, __u32 epoch, int held)
{
	__u32 slot = who->slot, key = who->key, then, counted;
	struct note *note;

	if (held != CLAIM_HELD)
		return held == CLAIM_SHARED ? ALLOW : refuse();
	note = bpf_sk_storage_get(&sockets, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!note) {
		/* no memory: it could not be told when the port is free again */
		let_go(key, slot, 0);
		return refuse();
	}
	if (is_kernels(sk)) {
		look_after(note, key, slot);
		return ALLOW;
	}
	/* a socket whose bind somebody else refused after us was counted already */
	counted = note->epoch == epoch;
	note->epoch = epoch;
	then = __sync_lock_test_and_set(&note->key, key);
	__sync_fetch_and_and(&note->state, NOTE_REUSE);
	if (then && counted)
		let_go(then, slot, 0);
	return ALLOW;
}

static __always_inline __u32 shares(struct bpf_sock *sk)
{
	struct note *note = bpf_sk_storage_get(&sockets, sk, 0, 0);

	return note && note->state & NOTE_REUSE;
}

static __always_inline int is_loopback4(__u32 address)
{
	return (bpf_ntohl(address) >> 24) == 127;
}

static __always_inline int is_loopback6(__u32 a, __u32 b, __u32 c, __u32 d)
{
	return !a && !b && ((!c && d == bpf_htonl(1)) || (c == bpf_htonl(0xffff) && is_loopback4(d)));
}

/* May the socket keep the port that it was bound to? `loopback`: its address is one of its namespace's own lo, where ports are
 * the namespace's own. That holds for containers alone: what the host sends to its lo reaches theirs. */
static __always_inline int judge(struct bpf_sock *sk, int loopback)
{
	struct space *space = space_of(bpf_get_netns_cookie(sk));
	struct claimant who = {};
	__u64 *word, w;
	__u32 epoch;
	int held;

	if (!space)
		return ALLOW;
	epoch = epoch_of(space);
	who.key = port_key(sk->src_port, sk->protocol);
	who.slot = space->slot;
	word = word_of(who.key);
	if (!word)
		return ALLOW;
	w = read_word(word);
	if (is_leased(w)) {
		if (tenant_in(w) == who.slot || (who.slot == HOST ? is_placeholder() : loopback))
			return ALLOW;
		return refuse();
	}
	/* who is refused already takes no port; and what is lo's alone neither */
	if (bpf_get_retval() < 0 || (who.slot != HOST && loopback))
		return ALLOW;
	who.reuse = shares(sk);
	if (sk->protocol == PROTO_TCP || sk->protocol == PROTO_UDP) {
		held = claim(&who);
	} else {
		/* whatever else has ports is not counted: the host may have them as far as no container holds TCP's */
		w = read_word(word);
		/* it leads to the last who had it */
		if (who.slot == HOST && is_past(w, rest_clock()) && __sync_val_compare_and_swap(word, w, 0) == w)
			w = 0;
		held = who.slot == HOST && !(is_claimed(w) && slot_in(w) != HOST) ? CLAIM_SHARED : CLAIM_REFUSED;
	}
	if (held == CLAIM_REFUSED) {
		w = read_word(word);
		/* datagrams that share a port which nobody holds alone come to all who do, leased to nobody */
		if (who.slot == HOST ? is_placeholder() : who.reuse && sk->protocol == PROTO_UDP && !(__u32)w && !is_claimed(w))
			return ALLOW;
	}
	return count_bound(sk, &who, epoch, held);
}

SEC("cgroup/post_bind4") int post_bind4(struct bpf_sock *sk)
{
	return judge(sk, is_loopback4(sk->src_ip4));
}

SEC("cgroup/post_bind6") int post_bind6(struct bpf_sock *sk)
{
	return judge(sk, is_loopback6(sk->src_ip6[0], sk->src_ip6[1], sk->src_ip6[2], sk->src_ip6[3]));
}

/* The port of a socket that holds it no more, once. */
static __always_inline void give_back(struct note *note, __u64 cookie, __u32 rest)
{
	__u32 key = __sync_lock_test_and_set(&note->key, 0);
	struct space *space;

	if (!key)
		return;
	space = space_of(cookie);
	if (space && note->epoch == epoch_of(space))
		let_go(key, space->slot, rest);
}

/* A socket that still holds its port has had a connection there. */
static __always_inline void rests_later(__u32 key, __u64 cookie, __u32 rest)
{
	struct space *space = space_of(cookie);
	__u64 *word = word_of(key);

	if (space && word)
		let_rest(word, space->slot, rest);
}

/* A connection outlives its file; sock_events sees its end. Whoever comes second of the two finds that the other one was there. */
SEC("cgroup/sock_release") int sock_release(struct bpf_sock *sk)
{
	struct note *note = bpf_sk_storage_get(&sockets, sk, 0, 0);
	__u32 then;

	if (!note || !note->key)
		return ALLOW;
	then = __sync_fetch_and_or(&note->state, NOTE_RELEASED);
	if (note->key >= UDP_HALF || sk->state == BPF_TCP_CLOSE || sk->state == BPF_TCP_LISTEN || then & NOTE_CLOSED)
		give_back(note, bpf_get_netns_cookie(sk), 0);
	return ALLOW;
}

static __always_inline void hear_of_its_end(struct bpf_sock_ops *ctx)
{
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

/* Which connections are counted that have no note: a connection begins with its listener's flags, and may end before it was
 * accepted, as one does whose listener is closed meanwhile. Listeners do not have this one, and it costs a call of this program
 * for each retransmission timeout. */
#define COUNTED BPF_SOCK_OPS_RTO_CB_FLAG

/* A connection was accepted, or will be: it holds its listener's port as long as it lasts. A socket that was bound is none, and is
 * counted already: two that connect to each other at once, as one to itself, come here as well. */
static __always_inline void accepted(struct bpf_sock_ops *ctx)
{
	struct space *space = space_of(bpf_get_netns_cookie(ctx));
	__u64 *word = word_of(ctx->local_port & 0xffff);
	int loopback;

	/* nothing more for each connection to a leased port */
	if (!space || !word || !is_held_by(read_word(word), space->slot))
		return;
	if (ctx->sk && bpf_sk_storage_get(&sockets, ctx->sk, 0, 0))
		return;
	/* a container's lo is its own, see judge() */
	loopback = ctx->family == AF_INET ? is_loopback4(ctx->local_ip4)
					  : is_loopback6(ctx->local_ip6[0], ctx->local_ip6[1], ctx->local_ip6[2], ctx->local_ip6[3]);
	if (loopback && space->slot != HOST)
		return;
	if (add_to(word, space->slot))
		bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG | COUNTED);
}

/* A bound socket connects, or listens: from now on its end is told. One that the kernel made is counted only now. */
static __always_inline void begins(struct bpf_sock_ops *ctx)
{
	struct note *note = ctx->sk ? bpf_sk_storage_get(&sockets, ctx->sk, 0, 0) : 0;
	struct claimant who = {};
	struct space *space;
	__u64 *word;

	if (!note)
		return;
	if (note->later && !note->key) {
		space = space_of(bpf_get_netns_cookie(ctx));
		if (!space)
			return;
		who.key = note->later;
		who.slot = space->slot;
		who.reuse = (note->state & NOTE_REUSE) != 0;
		if (claim(&who) == CLAIM_HELD) {
			note->epoch = epoch_of(space);
			note->key = who.key;
			/* its end is told from now on */
			if (__sync_fetch_and_and(&note->state, ~NOTE_LOOK) & NOTE_LOOK && (word = word_of(who.key)))
				__sync_fetch_and_and(word, ~LOOK);
		}
	}
	if (!note->key)
		return;
	__sync_fetch_and_and(&note->state, ~NOTE_CLOSED);
	hear_of_its_end(ctx);
}

/* How long the connections' addresses are in use after their sockets have ended. */
static __always_inline __u32 rest_after(__u32 state)
{
	if (state == BPF_TCP_FIN_WAIT2)
		return FIN_WAIT_UNITS;
	return state == BPF_TCP_CLOSING || state == BPF_TCP_TIME_WAIT ? TIME_WAIT_UNITS : 0;
}

/* A connection ended. A socket that its owner bound and has open still holds its port on. */
static __always_inline void ended(struct bpf_sock_ops *ctx)
{
	struct note *note = ctx->sk ? bpf_sk_storage_get(&sockets, ctx->sk, 0, 0) : 0;
	__u64 cookie = bpf_get_netns_cookie(ctx);
	__u32 rest = rest_after(ctx->args[0]);
	struct space *space;

	if (note) {
		__u32 then = __sync_fetch_and_or(&note->state, NOTE_CLOSED);

		if (then & NOTE_RELEASED || note->later)
			give_back(note, cookie, rest);
		else if (rest && note->key)
			rests_later(note->key, cookie, rest);
		return;
	}
	/* flags of a socket of another installation's namespace are that one's, whose program may come after this one */
	space = space_of(cookie);
	if (!space)
		return;
	if (ctx->bpf_sock_ops_cb_flags & COUNTED)
		let_go(ctx->local_port & 0xffff, space->slot, rest);
	/* should it be bound or connected anew, it is another one */
	bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags & ~(BPF_SOCK_OPS_STATE_CB_FLAG | COUNTED));
}

SEC("sockops") int sock_events(struct bpf_sock_ops *ctx)
{
	__u32 op = ctx->op;

	if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB)
		accepted(ctx);
	else if (op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE)
		ended(ctx);
	else if (op == BPF_SOCK_OPS_TCP_CONNECT_CB || op == BPF_SOCK_OPS_TCP_LISTEN_CB)
		begins(ctx);
	return 1;
}

/* Where the loader does not know how to find out whose namespace it is, nothing is refused. */
SEC("cgroup/sysctl") int keep_range(struct bpf_sysctl *ctx)
{
	if (!ctx->write || !knows_kernel || !names_the_range(ctx))
		return ALLOW;
	return may_be_range(ctx) ? ALLOW : REFUSE;
}

char _license[] SEC("license") = "Dual MIT/GPL";
