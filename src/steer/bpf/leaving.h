/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * What is known of a packet that leaves its container for the world, and is handed on in one word.
 */
#pragma once

#include "deliver.h"

/* Of a packet that leaves, in one word: the offset of its transport header, and */
#define L4(how) ((how) & 0xffff)
#define IS_TCP 0x10000
#define IS_V6 0x20000
#define ASK 0x40000	/* its sender wants to hear of a next hop that does not answer */
#define MUTE 0x80000	/* an error itself, or to many: nobody is told what becomes of it */
#define PARSED 0x100000	/* packet(OUTER) tells of it */

static __always_inline __u32 leaving(__u32 l4, __u32 tcp, __u32 more)
{
	return (l4 & 0xffff) | (tcp ? IS_TCP : 0) | more;
}

static __always_inline void left(__u32 n, struct __sk_buff *skb, __u32 how)
{
	sent(n, skb, L4(how), how & IS_TCP);
}

/* Bytes of the largest IP packet that `skb` becomes on the wire: a segment of it, where it is to be cut. */
static __always_inline __u32 largest(struct __sk_buff *skb, __u32 l4, __u32 tcp)
{
	__u32 segment = skb->gso_size ? headers_of(skb, l4, tcp) + skb->gso_size : skb->len;

	return (segment < skb->len ? segment : skb->len) - ETH_HLEN;
}
