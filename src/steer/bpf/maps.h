/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * What user space and the programs share: the maps and the layout of their values. `maps.rs` mirrors every struct
 * here; its tests compare the sizes. Ports are kept in host byte order, addresses in network byte order, IPv4 as
 * ::ffff:a.b.c.d wherever both families meet.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/in6.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define MAX_ADDRESSES 16384	/* of a host, on all its devices */
#define MAX_SLOTS 4096		/* 65536 ports / 16, the smallest block; slot 0 is the host */
#define FRAGMENT_CELLS 16	/* datagrams a container may have half sent at one time */
/* How long a first fragment tells where later ones go, in ns. Senders send all of a datagram at once. The kernel would wait
 * 30 s for the rest, but by then an id may stand for another datagram: there are only 65 536 of them in IPv4. */
#define FRAGMENT_LIFETIME 5000000000LL
#define ECHO_CELLS 16		/* (remote, id) pairs remembered per container */
#define ECHO_WAYS 4		/* containers that may use one echo id at the same time */
#define ECHO_LIFETIME 60	/* units of 2^30 ns; how long a silent echo id stays taken */

/* host.flags */
#define HOST_PEER_FROM_LO 1	/* kernel >= 6.15: redirect_peer drops the stale route of a packet from lo */
#define HOST_ONE_V4 2		/* v4 is the host's only IPv4 address outside lo: comparing it is enough */
#define HOST_ONE_V6 4
#define HOST_NEXTHOP_V4 8	/* net/mask/gw describe the routes: no FIB lookup needed */
#define HOST_NEXTHOP_V6 16
#define HOST_FAIR 32		/* the uplink's root qdisc gives each container a flow of its own */

#define COPY 0x10000		/* in struct fragment_first beside the slot: the host gets the packet as well */

/* slot.flags */
#define SLOT_THROUGH_QDISC 1	/* an ingress limit sits on the host veth: redirect_peer would skip it */
#define SLOT_HOST_LOOPBACK 2	/* may reach the host's 127.0.0.0/8 and ::1 */
#define SLOT_SHAPED 4		/* what it sends waits its turn in the shaper */
#define SLOT_SPARE_LOCAL 8	/* its limits do not count what stays on this host */
/* A class that sent far ahead of its rate is paid off before a new rate counts: packets are led to a second class. */
#define SLOT_EGRESS_SECOND 16
#define SLOT_INGRESS_SECOND 32

/* Classes and flows of qdiscs, chosen by skb->priority: class 1:<slot> of the shaper, flow <slot> of the uplink. */
#define SHAPER_CLASS(slot) (1 << 16 | (slot))
#define SHAPER_SECOND 0x2000	/* added to the first */
#define INGRESS_SECOND (1 << 16 | 2)
#define UNLIMITED (1 << 16)	/* 1:0, htb's direct queue */
#define UPLINK_FLOW(slot) (0x7073 << 16 | (slot))

/* addresses */
#define ADDRESS_OF_UPLINK 1	/* carried by every container, valid as a source */
#define ADDRESS_OF_HOST 2	/* on another device of the host: a destination only */

/* Why a packet was dropped. The order is part of the layout; names are in maps.rs. */
enum reason {
	R_SOURCE_ADDRESS,
	R_SOURCE_PORT,
	R_SOURCE_MAC,
	R_PROTOCOL,
	R_NEIGHBOR,
	R_ICMP,
	R_ECHO,
	R_FRAGMENT,
	R_MALFORMED,
	R_HOST_LOOPBACK,
	R_OVERSIZE,
	R_UNREACHABLE,
#if TEST_FORMAT > 1	/* what a later version might add */
	R_RAISED,
#endif
	REASONS,
};

union addr {
	__u32 w[4];
	__u64 d[2];
};

struct host {
	__u32 uplink;		/* ifindex */
	__u32 flags;
	__u32 mtu;		/* of the uplink, without the Ethernet header */
	__u8 mac[6];
	__u16 pad;
	__u32 v4, v4_net, v4_mask, v4_gw;
	__u32 v4_broadcast;	/* of the uplink's network; 0: it has none */
	union addr v6, v6_net, v6_mask, v6_gw;
};

struct slot {			/* of slot 0: only ifindex, of the shaper */
	__u32 ifindex;		/* of the host's end of the veth pair; 0: nobody */
	__u32 inner;		/* ifindex of the container's end, in its namespace */
	__u32 flags;
	__u32 epoch;		/* of the lease: what an earlier tenant of the slot left behind does not count */
};

struct counters {
	__u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
	__u64 drops[REASONS];
};

struct fragment_key {		/* of a datagram on its way to a container */
	union addr src, dst;
	__u32 id;
	__u16 origin;		/* 0 the wire, 1 host lo */
	__u8 proto, pad;
};

struct fragment_first {		/* where the first fragment of a datagram went */
	__u32 slot;		/* and COPY */
	__u32 epoch;		/* of the slot's lease */
	__u64 seen;		/* ns */
};

struct fragment_cell {		/* of a datagram a container is sending */
	union addr dst;
	__u64 seen;		/* ns */
	__u32 id;
	__u32 epoch;
	__u16 to;		/* the slot it goes to, 0 the host or the world */
	__u8 proto, pad;
	__u32 turn;		/* in the first cell: which one is written next */
};

struct echo_way {		/* who uses an echo id */
	__u16 slot, pad;
	__u32 epoch;
	__u32 seen;		/* 2^30 ns units */
};

struct echo_ways {
	struct echo_way way[ECHO_WAYS];
};

struct echo_cell {		/* whom a container asked, under which id */
	union addr remote;
	__u32 epoch;
	__u32 seen;
	__u16 id, pad;
};

/* maps.rs asserts the same sizes */
_Static_assert(sizeof(struct host) == 104, "struct host");
_Static_assert(sizeof(struct slot) == 16, "struct slot");
_Static_assert(sizeof(struct counters) == 8 * (4 + REASONS), "struct counters");
_Static_assert(sizeof(struct fragment_key) == 40, "a key must have no holes");
_Static_assert(sizeof(struct fragment_first) == 16, "a value must have no holes");

#define ARRAY(name, entries, value_type, flags)          \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_ARRAY);        \
		__uint(max_entries, entries);            \
		__uint(map_flags, flags);                \
		__uint(pinning, LIBBPF_PIN_BY_NAME);     \
		__type(key, __u32);                      \
		__type(value, value_type);               \
	} name SEC(".maps")

/* port -> slot; written by user space through mmap, so ten thousand ports cost no system call each */
ARRAY(ports, 65536, __u64, BPF_F_MMAPABLE);
ARRAY(slots, MAX_SLOTS, struct slot, 0);
ARRAY(host, 1, struct host, 0);
/* The tables below are indexed by the slot of the container that writes them (or, echo_ids, hold one place per
 * container): nobody can push out or take over what another container left there. */
ARRAY(fragments_out, MAX_SLOTS * FRAGMENT_CELLS, struct fragment_cell, 0);
ARRAY(echo_out, MAX_SLOTS * ECHO_CELLS, struct echo_cell, 0);
ARRAY(echo_ids, 65536, struct echo_ways, 0);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, MAX_SLOTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct counters);
} counters SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_ADDRESSES);
	__uint(map_flags, BPF_F_NO_PREALLOC);	/* most hosts have two */
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, union addr);
	__type(value, __u32);
} addresses SEC(".maps");

/* Written only by packets from the wire and from host processes, never by a container. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, struct fragment_key);
	__type(value, struct fragment_first);
} fragments_in SEC(".maps");

/* slot -> ifindex of the host's end of its pair; the kernel removes an entry together with its device.
 * The value has room for a program (none here): the loader makes such values wherever the kernel takes them, since 5.8. */
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, MAX_SLOTS);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} devices SEC(".maps");

/* The maps below belong to user space. Programs are bound to them without using them: the book tells whose a program
 * is, and keeps the leases when the state directory is lost. */

#define BOOK_BYTES 2040		/* of a record, in one chunk */

struct chunk {			/* one part of a record; book.rs has the keys */
	__u32 generation;	/* the same in all chunks of a record */
	__u16 chunks;		/* of the whole record */
	__u16 length;		/* bytes of this chunk that are used */
	__u8 bytes[BOOK_BYTES];
};

struct tenant {			/* of a slot; entry 0: epoch, slot and block given out last */
	__u64 netns;		/* inode of the namespace */
	__u64 id;		/* fnv1a64 of the container id; entry 0: epoch given out last */
	__u32 stamp;		/* while leased: number of what it was given; then: seconds of CLOCK_BOOTTIME when it became
				 * free; entry 0: slot given out last */
	__u16 begin;		/* of its block, 0 for none; entry 0: where the search for a block goes on */
	__u8 state;		/* 0 never used, 1 leased, 2 the block rests */
	__u8 size;		/* of its block, as a power of two */
};

_Static_assert(sizeof(struct chunk) == 2048, "struct chunk");
_Static_assert(sizeof(struct tenant) == 24, "struct tenant");

/* slot << 16 | chunk -> a part of the slot's lease record; slot 0 has the host record */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct chunk);
} book SEC(".maps");

ARRAY(tenants, MAX_SLOTS, struct tenant, BPF_F_MMAPABLE);
