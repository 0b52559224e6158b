/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Reading a packet the slow way: IP options, IPv6 extension headers, fragments, ICMP, data outside the linear
 * part. One pass over one IP header; an ICMP error calls it a second time for the header it quotes.
 */
#pragma once

#include "maps.h"

#define PASS TC_ACT_UNSPEC	/* the next program, filter or the stack */
#define DROP TC_ACT_SHOT

#define PROTO_ICMP 1
#define PROTO_IGMP 2
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_DCCP 33
#define PROTO_ICMP6 58
#define PROTO_SCTP 132
#define PROTO_UDPLITE 136

#define MAX_EXTENSIONS 8	/* headers between that of IPv6 and the transport's; RFC 8200 4.1 has seven at most */

#define FRAG_FIRST 1
#define FRAG_LATER 2

enum icmp_kind { ICMP_OTHER, ICMP_ERROR, ICMP_TOO_BIG, ICMP_ASK, ICMP_ANSWER, ICMP_LINK, ICMP_GROUP };

struct packet {
	union addr src, dst;
	__u32 frag_id;
	__u32 end;		/* offset behind the transport header's first 8 bytes: where a quoted header begins */
	__u16 sport, dport;	/* or the echo id in both */
	__u8 proto, frag, icmp, v6;
	__u32 frag_off, frag_len;	/* of a fragment: the bytes that it has of its datagram */
	__u8 more, sound;	/* there are further ones; no receiver refuses it */
};

/* What a program knows of the packet in its hands, and of the one that an ICMP error quotes. Not on the stack: a verifier would
 * follow each of the many ways through parse() to the end of the program, for what each tells of the values there. Programs of
 * one processor do not interrupt each other. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct packet);
} packets SEC(".maps");

/* Looked at by the verifier once, whoever calls it: so its arguments are numbers, and it finds the packet itself. */
#define APART __attribute__((noinline))

#define OUTER 0
#define QUOTED 1

static __always_inline struct packet *packet(__u32 which)
{
	return bpf_map_lookup_elem(&packets, &which);
}

static __always_inline int has_ports(__u8 proto)
{
	/* source and destination port are the first four bytes of each of these */
	return proto == PROTO_TCP || proto == PROTO_UDP || proto == PROTO_SCTP || proto == PROTO_UDPLITE ||
	       proto == PROTO_DCCP;
}

static __always_inline void map_v4(union addr *a, __u32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

static __always_inline int same(const union addr *a, const union addr *b)
{
	return a->d[0] == b->d[0] && a->d[1] == b->d[1];
}

/* IPv4 written as IPv6 has no place in an IPv6 header. Our maps write IPv4 so, but must not be asked for it. */
static __always_inline int is_mapped(const union addr *a)
{
	return !a->d[0] && a->w[2] == bpf_htonl(0xffff);
}

static __always_inline int v4_is_loopback(__u32 v4)
{
	return (v4 & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
}

static __always_inline int is_loopback(const union addr *a)
{
	if (a->d[0])
		return 0;
	if (a->w[2] == bpf_htonl(0xffff))
		return v4_is_loopback(a->w[3]);
	return a->w[2] == 0 && a->w[3] == bpf_htonl(1);
}

/* Does it quote a packet? */
static __always_inline int is_error(const struct packet *p)
{
	return p->icmp == ICMP_ERROR || p->icmp == ICMP_TOO_BIG;
}

static __always_inline __u8 icmp_kind(__u8 v6, __u8 type, __u8 code)
{
	if (v6) {
		if (type == 2)
			return ICMP_TOO_BIG;
		if (type >= 1 && type <= 4)
			return ICMP_ERROR;
		if (type == 128)
			return ICMP_ASK;
		if (type == 129)
			return ICMP_ANSWER;
		if ((type >= 130 && type <= 132) || type == 143)
			return ICMP_GROUP;
		if (type >= 133 && type <= 137)
			return ICMP_LINK;
		return ICMP_OTHER;
	}
	if (type == 3 && code == 4)
		return ICMP_TOO_BIG;
	if (type == 3 || type == 11 || type == 12)
		return ICMP_ERROR;
	if (type == 8)
		return ICMP_ASK;
	if (type == 0)
		return ICMP_ANSWER;
	return ICMP_OTHER;
}

static __always_inline int is_extension(__u8 next)
{
	return next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	       next == IPPROTO_FRAGMENT || next == IPPROTO_AH;
}

/* The protocol that tells datagrams with one id apart: in IPv4 that of the header. In IPv6 a first fragment may have
 * extension headers of its own, which later ones do not repeat; there addresses and id are all (RFC 8200 4.5). */
static __always_inline __u8 datagram_proto(const struct packet *p)
{
	return p->proto & (p->v6 - 1);	/* v6 is 1 or 0; without a branch, see track.h */
}

/* What a fragment has of its datagram. It is sound when its receiver takes it: its lengths are true and its header is whole.
 * Without options only, which a receiver may not understand. */
static __always_inline void fragment_v4(struct __sk_buff *skb, struct packet *p, __u32 start, struct iphdr *ip)
{
	__u32 header = (__u32)ip->ihl * 4, total = bpf_ntohs(ip->tot_len), field = bpf_ntohs(ip->frag_off);
	__u32 sum = bpf_csum_diff(0, 0, (__be32 *)ip, sizeof(*ip), 0);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	p->frag_off = (field & 0x1fff) * 8;
	p->frag_len = total > header ? total - header : 0;
	p->more = !!(field & 0x2000);
	p->sound = header == sizeof(*ip) && sum == 0xffff && start + total <= skb->len && p->frag_len &&
		   (!p->more || !(p->frag_len & 7));
}

/* The same for one whose fragment header is number `before` and ends at `off`. A first one has to hold the whole header of
 * its transport (RFC 8200 4.5); 24 bytes are enough for that of TCP. */
static __always_inline void fragment_v6(struct __sk_buff *skb, struct packet *p, __u32 start, __u32 off, __u32 payload,
					__u32 field, __u32 before)
{
	__u32 end = start + sizeof(struct ipv6hdr) + payload;

	p->frag_off = field & 0xfff8;
	p->frag_len = end > off ? end - off : 0;
	p->more = field & 1;
	p->sound = !before && end <= skb->len && p->frag_len && (!p->more || !(p->frag_len & 7)) &&
		   (p->frag_off || (p->frag_len >= 24 && !is_extension(p->proto)));
}

/* Fills packet `which` from the IP header at `off`. Returns 0, or -1 when the header is cut short or contradicts itself. */
APART int read_headers(struct __sk_buff *skb, __u32 off, __u32 v6, __u32 which)
{
	struct packet *p = packet(which);
	__u32 start = off;
	__u8 head[8];

	if (!p)
		return -1;
	p->v6 = !!v6;
	p->frag = p->more = 0;
	p->frag_id = p->frag_off = p->frag_len = 0;
	p->end = 0;
	p->icmp = ICMP_OTHER;
	p->sport = p->dport = 0;
	p->sound = 0;
	if (v6) {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) < 0 || ip.version != 6)
			return -1;
		__builtin_memcpy(&p->src, &ip.saddr, 16);
		__builtin_memcpy(&p->dst, &ip.daddr, 16);
		if (is_mapped(&p->dst))
			return -1;
		p->proto = ip.nexthdr;
		off += sizeof(ip);
		/* unrolled: before Linux 6.7 the verifier takes a loop for endless whose counter is on the stack */
#pragma unroll
		for (int i = 0; i < MAX_EXTENSIONS; i++) {
			__u8 next = p->proto;

			if (!is_extension(next))
				break;
			if (bpf_skb_load_bytes(skb, off, head, 8) < 0)
				return -1;
			p->proto = head[0];
			if (next == IPPROTO_FRAGMENT) {
				__u16 field = (__u16)head[2] << 8 | head[3];

				__builtin_memcpy(&p->frag_id, head + 4, 4);
				fragment_v6(skb, p, start, off + 8, bpf_ntohs(ip.payload_len), field, i);
				if (field & 0xfff8) {
					p->frag = FRAG_LATER;
					return 0;
				}
				/* offset 0 and no more to come: an atomic fragment, a whole packet (RFC 6946) */
				if (field & 1)
					p->frag = FRAG_FIRST;
				off += 8;
			} else if (next == IPPROTO_AH) {
				off += ((__u32)head[1] + 2) * 4;
			} else {
				off += ((__u32)head[1] + 1) * 8;
			}
		}
		if (is_extension(p->proto))
			return -1;
	} else {
		struct iphdr ip;
		__u16 field;

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
			return -1;
		map_v4(&p->src, ip.saddr);
		map_v4(&p->dst, ip.daddr);
		p->proto = ip.protocol;
		p->frag_id = ip.id;
		off += (__u32)ip.ihl * 4;
		field = bpf_ntohs(ip.frag_off);
		if (field & 0x3fff)
			fragment_v4(skb, p, start, &ip);
		if (field & 0x1fff) {
			p->frag = FRAG_LATER;
			return 0;
		}
		if (field & 0x2000)
			p->frag = FRAG_FIRST;
	}
	p->end = off + 8;
	if (has_ports(p->proto)) {
		__u16 port[2];

		if (bpf_skb_load_bytes(skb, off, port, 4) < 0)
			return -1;
		p->sport = bpf_ntohs(port[0]);
		p->dport = bpf_ntohs(port[1]);
	} else if (p->proto == (v6 ? PROTO_ICMP6 : PROTO_ICMP)) {
		if (bpf_skb_load_bytes(skb, off, head, 8) < 0)
			return -1;
		p->icmp = icmp_kind(v6, head[0], head[1]);
		p->sport = p->dport = (__u16)head[4] << 8 | head[5];
	}
	return 0;
}

/* Packet `which`, filled; 0 where there is no sound one. The source may be an IPv4 address written as IPv6. */
static __always_inline struct packet *parse_any(struct __sk_buff *skb, __u32 off, __u32 v6, __u32 which)
{
	return read_headers(skb, off, v6, which) < 0 ? 0 : packet(which);
}

/* The same for all who do not take such a source for a martian. */
static __always_inline struct packet *parse(struct __sk_buff *skb, __u32 off, __u32 v6, __u32 which)
{
	struct packet *p = parse_any(skb, off, v6, which);

	return p && !(v6 && is_mapped(&p->src)) ? p : 0;
}
