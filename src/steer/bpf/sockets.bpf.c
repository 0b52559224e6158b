/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Who may bind a port: programs on a cgroup that see every bind() of the processes in it and below.
 *
 *   bind4, bind6            before the kernel binds   notes whether a datagram socket shares its port, and counts what the host
 *                                                     binds; refuses nothing
 *   post_bind4, post_bind6  after the kernel bound    refuses a port that is somebody else's with EADDRINUSE
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

#include "ports.h"

#define HOST 0			/* the host's slot */
#define ALLOW 1
#define REFUSE 0

#define SOCK_DGRAM 2		/* include/linux/net.h */
#define SOL_SOCKET 1		/* asm-generic/socket.h */
#define SO_REUSEADDR 2
#define SO_REUSEPORT 15

/* Whose the sockets of a network namespace are. */
struct space {
	__u32 slot;
	__u32 binds;		/* for the host alone: how often its programs asked for a port by its number */
};

/* Cookie of a network namespace -> space. The kernel never gives a cookie out twice. Twice the slots: the entry of an ended
 * container stays until its lease is taken back. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * MAX_SLOTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u64);
	__type(value, struct space);
} namespaces SEC(".maps");

/* slot -> cookie of its network namespace, 0 for none: by it user space finds the entry above */
ARRAY(cookies, MAX_SLOTS, __u64, 0);

/* Does the socket that is being bound share its port? Written by bind4 and bind6, read by post_bind4 and post_bind6, which may
 * not ask for options. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, int);
	__type(value, __u32);
} shares SEC(".maps");

static __always_inline struct space *space_of(__u64 cookie)
{
	return bpf_map_lookup_elem(&namespaces, &cookie);
}

static __always_inline int option(struct bpf_sock_addr *ctx, int name)
{
	int value = 0;

	return bpf_getsockopt(ctx, SOL_SOCKET, name, &value, sizeof(value)) == 0 && value;
}

/* The host's binds are counted before the kernel looks for the port: who finds the count as it was after ports were given to a
 * container knows that no socket of the host took one of them meanwhile, and that none will.
 *
 * Only containers' datagram sockets may share, so only theirs cost a note. A note is written at every bind: a socket whose bind
 * was refused keeps the old one, and may have changed its options since. */
static __always_inline int note(struct bpf_sock_addr *ctx)
{
	struct space *space = space_of(bpf_get_netns_cookie(ctx));
	__u32 *noted, sharing;

	if (!space)
		return ALLOW;
	if (space->slot == HOST && ctx->user_port)
		__sync_fetch_and_add(&space->binds, 1);
	if (space->slot == HOST || ctx->type != SOCK_DGRAM || !ctx->sk)
		return ALLOW;
	sharing = option(ctx, SO_REUSEADDR) || option(ctx, SO_REUSEPORT);
	noted = bpf_sk_storage_get(&shares, ctx->sk, 0, sharing ? BPF_SK_STORAGE_GET_F_CREATE : 0);
	if (noted)
		*noted = sharing;
	return ALLOW;
}

SEC("cgroup/bind4") int bind4(struct bpf_sock_addr *ctx)
{
	return note(ctx);
}

SEC("cgroup/bind6") int bind6(struct bpf_sock_addr *ctx)
{
	return note(ctx);
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

static __always_inline int shared(struct bpf_sock *sk)
{
	__u32 *noted = bpf_sk_storage_get(&shares, sk, 0, 0);

	return noted && *noted;
}

/* May the socket keep the port that it was bound to? `loopback`: its address is one of its namespace's own lo, where ports are
 * the namespace's own. That holds for containers alone: what the host sends to its lo reaches theirs. */
static __always_inline int judge(struct bpf_sock *sk, int loopback)
{
	struct space *space = space_of(bpf_get_netns_cookie(sk));
	__u32 port = sk->src_port, owner;
	__u64 *word;

	if (!space)
		return ALLOW;
	word = bpf_map_lookup_elem(&ports, &port);
	if (!word)
		return ALLOW;
	owner = (__u32)*word ? (__u32)*word : (__u32)(*word >> 32);
	if (owner == space->slot)
		return ALLOW;
	if (space->slot == HOST) {
		if (is_placeholder())
			return ALLOW;
	} else if (loopback || (!owner && sk->type == SOCK_DGRAM && shared(sk))) {
		return ALLOW;
	}
	bpf_set_retval(-EADDRINUSE);
	return REFUSE;
}

static __always_inline int is_loopback4(__u32 address)
{
	return (bpf_ntohl(address) >> 24) == 127;
}

SEC("cgroup/post_bind4") int post_bind4(struct bpf_sock *sk)
{
	return judge(sk, is_loopback4(sk->src_ip4));
}

SEC("cgroup/post_bind6") int post_bind6(struct bpf_sock *sk)
{
	__u32 a = sk->src_ip6[0], b = sk->src_ip6[1], c = sk->src_ip6[2], d = sk->src_ip6[3];
	int loopback = !a && !b && ((!c && d == bpf_htonl(1)) || (c == bpf_htonl(0xffff) && is_loopback4(d)));

	return judge(sk, loopback);
}

char _license[] SEC("license") = "Dual MIT/GPL";
