/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Port names: a program in a container binds 80 and sits on 31000. Programs on a cgroup, beside those of sockets.bpf.c and after
 * them, attached only while a container has a name; those of datagrams only while one of UDP has.
 *
 *   name_bind4, 6       bind()                   80 becomes 31000, whoever may bind 80 or not
 *   name_sockname4, 6   getsockname()            31000 becomes 80
 *   name_peername4, 6   getpeername(), accept()  31000 of the container itself becomes 80
 *   name_connect4, 6    connect()                to the container itself: 80 becomes 31000
 *   name_sendmsg4, 6    sendto() and sendmsg()   the same of a datagram that names whom it is for
 *   name_recvmsg4, 6    recvfrom() and recvmsg() from the container itself: 31000 becomes 80
 *
 * No packet is rewritten: sockets really have the outside number, and so `ss` shows it. An inside number is never one of the
 * container's real ports, so that no number means two things: a number that was translated already, as that of a datagram to an
 * IPv4-mapped address is, stands for itself.
 *
 * Kernel: 5.12, for a return value of bind() that skips the check of privileged ports.
 */
#include "names.h"

#define ALLOW 1
#define ALLOW_ANY_PORT 3	/* BPF_RET_BIND_NO_CAP_NET_BIND_SERVICE */

static __always_inline struct address address_of(struct bpf_sock_addr *ctx)
{
	struct address address = {};

	address.word[0] = ctx->user_ip6[0];
	address.word[1] = ctx->user_ip6[1];
	address.word[2] = ctx->user_ip6[2];
	address.word[3] = ctx->user_ip6[3];
	return address;
}

/* The container's operator gave it the port under this number, so that the number needs no privilege. */
static __always_inline int rename_bind(struct bpf_sock_addr *ctx)
{
	struct named named = look_up(ctx, TO_OUTSIDE);

	if (!named.port)
		return ALLOW;
	ctx->user_port = bpf_htons(named.port);
	return ALLOW_ANY_PORT;
}

static __always_inline int rename_own(struct bpf_sock_addr *ctx)
{
	struct named named = look_up(ctx, TO_INSIDE);

	if (named.port)
		ctx->user_port = bpf_htons(named.port);
	return ALLOW;
}

/* `way` of the number at the other end, where that is the container itself. */
static __always_inline int rename_other_end4(struct bpf_sock_addr *ctx, enum way way)
{
	struct named named = look_up(ctx, way);

	if (!named.port || !is_own4(ctx->user_ip4) || (way == TO_OUTSIDE && named.udp && is_anothers(ctx, named.slot)))
		return ALLOW;
	ctx->user_port = bpf_htons(named.port);
	return ALLOW;
}

static __always_inline int rename_other_end6(struct bpf_sock_addr *ctx, enum way way)
{
	struct named named = look_up(ctx, way);
	struct address address;

	if (!named.port)
		return ALLOW;
	address = address_of(ctx);
	if (!is_own6(&address) || (way == TO_OUTSIDE && named.udp && is_anothers(ctx, named.slot)))
		return ALLOW;
	ctx->user_port = bpf_htons(named.port);
	return ALLOW;
}

SEC("cgroup/bind4") int name_bind4(struct bpf_sock_addr *ctx)
{
	return rename_bind(ctx);
}

SEC("cgroup/bind6") int name_bind6(struct bpf_sock_addr *ctx)
{
	return rename_bind(ctx);
}

SEC("cgroup/getsockname4") int name_sockname4(struct bpf_sock_addr *ctx)
{
	return rename_own(ctx);
}

SEC("cgroup/getsockname6") int name_sockname6(struct bpf_sock_addr *ctx)
{
	return rename_own(ctx);
}

SEC("cgroup/getpeername4") int name_peername4(struct bpf_sock_addr *ctx)
{
	return rename_other_end4(ctx, TO_INSIDE);
}

SEC("cgroup/getpeername6") int name_peername6(struct bpf_sock_addr *ctx)
{
	return rename_other_end6(ctx, TO_INSIDE);
}

SEC("cgroup/connect4") int name_connect4(struct bpf_sock_addr *ctx)
{
	return rename_other_end4(ctx, TO_OUTSIDE);
}

SEC("cgroup/connect6") int name_connect6(struct bpf_sock_addr *ctx)
{
	return rename_other_end6(ctx, TO_OUTSIDE);
}

SEC("cgroup/sendmsg4") int name_sendmsg4(struct bpf_sock_addr *ctx)
{
	return rename_other_end4(ctx, TO_OUTSIDE);
}

SEC("cgroup/sendmsg6") int name_sendmsg6(struct bpf_sock_addr *ctx)
{
	return rename_other_end6(ctx, TO_OUTSIDE);
}

SEC("cgroup/recvmsg4") int name_recvmsg4(struct bpf_sock_addr *ctx)
{
	return rename_other_end4(ctx, TO_INSIDE);
}

SEC("cgroup/recvmsg6") int name_recvmsg6(struct bpf_sock_addr *ctx)
{
	return rename_other_end6(ctx, TO_INSIDE);
}

char _license[] SEC("license") = "Dual MIT/GPL";
