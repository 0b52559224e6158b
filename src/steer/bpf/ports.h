/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Who owns which port: the one map that the data path (steer.bpf.c) and the programs at the sockets (sockets.bpf.c) share.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define MAX_SLOTS 4096		/* 65536 ports / 16, the smallest block */
#define HOST 0			/* the host's slot */

#define ARRAY(name, entries, value_type, flags)          \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_ARRAY);        \
		__uint(max_entries, entries);            \
		__uint(map_flags, flags);                \
		__uint(pinning, LIBBPF_PIN_BY_NAME);     \
		__type(key, __u32);                      \
		__type(value, value_type);               \
	} name SEC(".maps")

/* A port number stands for two ports, of TCP and of UDP: the key is the number, of UDP plus UDP_HALF. Whatever else has ports asks
 * for TCP's. */
#define NUMBERS 65536
#define UDP_HALF 0x10000

/* port -> whose it is, all in one word: a claim and its count are made at one moment.
 *
 *   bits 0-15    the slot that packets go to, all that the data path reads; 0: they go to the host's stack
 *   bits 16-31   of a leased port: the slot that it is leased to
 *                of a claimed one: until when it rests once no socket holds it, in REST_UNITs; 0: never. After that it is
 *                nobody's, and leads to its last holder until somebody claims it or user space looks
 *   CLAIMED      sockets hold it, or it rests; without that, a word that is not 0 below is leased, and never changes by itself
 *   REUSE        of those who bound it, all had SO_REUSEADDR (TCP), or share it (UDP)
 *   LOOK         not all of its sockets are counted: user space looks when it is free. One that is not may be taken off the count
 *                of others (a connection that was accepted under an earlier lease), which then frees nothing
 *   from bit 36  how many sockets hold it
 *
 * A claimed port with slot 0 is the host's. Leases are written by user space through mmap: ten thousand of them cost no system
 * call each. */
#define SECOND_AT 16
#define CLAIMED (1ULL << 32)
#define REUSE (1ULL << 33)
#define LOOK (1ULL << 34)
#define COUNT_AT 36
ARRAY(ports, 2 * NUMBERS, __u64, BPF_F_MMAPABLE);

#define REST_UNIT 32		/* as a power of two of nanoseconds: 4.3 s */
#define REST_MOST 32		/* units, the longest rest */

/* What tells it from all other protocols with ports is one bit of its number: UDP is 17, of TCP 6, DCCP 33, SCTP 132 and UDP-Lite
 * 136 none has it. */
static __always_inline __u32 port_key(__u16 port, __u8 proto)
{
	return port | (__u32)(proto & 16) << 12;
}
