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

#include "ports.h"
#include "tenants.h"

#define MAX_ADDRESSES 16384	/* of a host, on all its devices */
/* Datagrams that a container may have half sent at one time, and their bytes: so much of a receiver's memory for reassembly is
 * in its hands. Each processor of a container sends one datagram at a time. */
#define FRAGMENT_CELLS 16
#define FRAGMENT_BYTES 131072
#define FRAGMENT_LOOPED 8	/* further cells, for what it sends through its own lo */
/* How long a receiver waits for the rest of a datagram, in ns: the longer of Linux's two defaults (IP6_FRAG_TIMEOUT). */
#define FRAGMENT_HELD 60000000000LL
/* How long a first fragment tells where later ones go, in ns. Senders send all of a datagram at once. A receiver waits longer,
 * but by then an id may stand for another datagram: there are only 65 536 of them in IPv4. */
#define FRAGMENT_LIFETIME 5000000000LL
#define FRAGMENT_BUCKETS 16384	/* of datagrams on their way to containers */
#define FRAGMENT_WAYS 4		/* in each */
/* Later fragments that came before their first one are kept for it: that many, of frames up to a jumbo one. */
#define HELD_BUCKETS 32
#define HELD_WAYS 8
#define HELD_BYTES 9216
#define JOINS 32		/* groups that a container may have joined */
#define GROUP_BUCKETS 1024
#define GROUP_MEMBERS 64	/* of a group, who get copies */
#define ECHO_BUCKETS 1024	/* of (remote, id) pairs */
#define ECHO_WAYS 64		/* containers that are remembered in each, and so get one answer */
#define ECHO_LIFETIME 40	/* units of 2^28 ns: how long an answer may take. ping waits 10 s */

/* host.flags */
#define HOST_PEER_FROM_LO 1	/* kernel >= 6.15: redirect_peer drops the stale route of a packet from lo */
#define HOST_ONE_V4 2		/* v4 is the host's only IPv4 address outside lo: comparing it is enough */
#define HOST_ONE_V6 4
#define HOST_NEXTHOP_V4 8	/* net/mask/gw describe the routes but for beside: no FIB lookup needed */
#define HOST_NEXTHOP_V6 16
#define HOST_FAIR 32		/* the uplink's root qdisc gives each container a flow of its own */
#define HOST_BESIDE_V4 64	/* v4_beside has something: what is in there does not go to the gateway */
#define HOST_BESIDE_V6 128
/* rp_filter of the uplink, as far as it makes a difference; that of another device is its filter's class id */
#define HOST_SOURCES 8		/* bits to the right */
#define SOURCES_MASK 3
#define SOURCES_STRICT 1	/* the best route back leads out of the device; else any route leads back */

#define ANSWER 0x10000		/* in fragment_way.to: not a slot but a bucket of echoes */

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
#define ADDRESS_CARRIED 1	/* by every container: valid as a source */
#define ADDRESS_OF_HOST 2	/* a destination only */
#define ADDRESS_OF_MANY 4	/* for all on a network of the host, the uplink's first one not counted: no packet comes from there */

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

/* What an address is, and of ADDRESS_OF_MANY the way to its network. */
struct whose {
	__u32 kind;
	__u32 device;	/* 0: none that packets leave by */
	__u32 mtu;
};

#define BESIDE_V4 8		/* networks, and below for IPv6: a host with more of them asks the FIB for everything */
#define BESIDE_V6 4

struct network_v4 {
	__u32 net, mask;
};

struct network_v6 {
	union addr net, mask;
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
	/* ifindex of the device that the host's routes are asked from; 0: they all lead out of the uplink */
	__u32 fib;
	__u32 pad2;
	/* Where the FIB is asked although the gateway is known. Unused ones are a network that nothing is in. */
	struct network_v4 v4_beside[BESIDE_V4];
	struct network_v6 v6_beside[BESIDE_V6];
	union addr v6_link;	/* the uplink's own address on its link; all zeros: it has none */
};

struct slot {			/* of slot 0: only ifindex, of the shaper */
	__u32 ifindex;		/* of the host's end of the veth pair; 0: nobody */
	__u32 inner;		/* ifindex of the container's end, in its namespace */
	__u32 flags;
	__u32 epoch;		/* of the lease: what an earlier tenant of the slot left behind does not count */
	__u64 asked;		/* when a packet left last whose sender hears of a next hop that does not answer, jiffies */
};

struct counters {
	__u64 rx_packets, rx_bytes, tx_packets, tx_bytes;
	__u64 drops[REASONS];
};

struct fragment_way {		/* where the first fragment of a datagram went; the first way of the last bucket: the seed */
	__u64 tag;		/* of source, destination, id, protocol, and how it came */
	__u64 seen;		/* ns; 0: of no datagram */
	__u32 to;		/* slot, or ANSWER and bucket */
	__u32 epoch;		/* of the slot's lease; or the answer's tag */
};

struct fragment_bucket {
	struct fragment_way way[FRAGMENT_WAYS];
};

struct held {			/* a later fragment whose first one has not come yet */
	__u64 tag;		/* as in fragment_way */
	__u64 seen;		/* ns; 0: nothing is kept here */
	__u32 writers;		/* processors that are writing here: of more than one, none does */
	__u32 len;
	__u8 bytes[HELD_BYTES];	/* the frame, without its Ethernet header */
};

struct frame {			/* what a processor has to put aside meanwhile */
	__u8 bytes[HELD_BYTES];
};

struct held_bucket {
	struct held way[HELD_WAYS];
};

struct fragment_cell {		/* of a datagram a container is sending */
	union addr dst;
	__u64 seen;		/* its first fragment, ns */
	__u32 id;
	__u32 epoch;
	__u16 to;		/* the slot it goes to, 0 the host or the world */
	__u8 proto;
	__u8 state;		/* FRAGMENT_* */
	__u32 next;		/* offset at which the next fragment begins */
	__u16 sport, dport;	/* of its first fragment */
	__u32 pad;
};

struct fragment_cells {
	struct fragment_cell cell[FRAGMENT_CELLS];
	struct fragment_cell looped[FRAGMENT_LOOPED];
};

/* fragment_cell.state */
#define FRAGMENT_DONE 0		/* its receiver has all of it */
#define FRAGMENT_OPEN 1
#define FRAGMENT_DOUBTFUL 2	/* its receiver may have refused a part, and wait for it */
#define FRAGMENT_LEFT 3		/* begun anew: its receiver waits, and no part follows */

struct echo_way {		/* who asked whom, under which id */
	__u32 tag;		/* of remote and id, beside what chose the bucket */
	__u32 epoch;
	__u32 seen;		/* 2^28 ns units */
	__u16 slot;		/* 0: nobody */
	__u16 pad;
};

struct echo_bucket {
	__u32 newest;		/* when somebody asked last, 2^28 ns units: most answers that nobody asked for end here */
	__u32 pad;
	struct echo_way way[ECHO_WAYS];
};

struct joined {			/* what a container has joined */
	__u32 epoch;		/* of its lease */
	__u32 pad;
	union addr group[JOINS];	/* all zeros: none */
};

struct group_bucket {		/* slot, which of its groups << 16, epoch of its lease << 32; 0: nobody */
	__u64 way[GROUP_MEMBERS];
};

/* maps.rs asserts the same sizes */
_Static_assert(sizeof(struct host) == 320, "struct host");
_Static_assert(sizeof(struct slot) == 24, "struct slot");
_Static_assert(sizeof(struct joined) == 8 + 16 * JOINS && JOINS == 32, "struct joined");
_Static_assert(sizeof(struct counters) == 8 * (4 + REASONS), "struct counters");

ARRAY(slots, MAX_SLOTS, struct slot, 0);
ARRAY(host, 1, struct host, 0);
/* Indexed by the slot of the container that writes it: nobody can push out or take over what another container left there. */
ARRAY(fragments_out, MAX_SLOTS, struct fragment_cells, 0);
/* Whoever has ways in a bucket gets no more of it at the cost of others: see track.h. */
ARRAY(fragments_in, FRAGMENT_BUCKETS + 1, struct fragment_bucket, 0);
ARRAY(held, HELD_BUCKETS, struct held_bucket, 0);
ARRAY(echoes, ECHO_BUCKETS, struct echo_bucket, 0);
ARRAY(joined, MAX_SLOTS, struct joined, 0);
ARRAY(groups, GROUP_BUCKETS, struct group_bucket, 0);

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct frame);
} aside SEC(".maps");

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
	__type(value, struct whose);
} addresses SEC(".maps");

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

_Static_assert(sizeof(struct chunk) == 2048, "struct chunk");

/* slot << 16 | chunk -> a part of the slot's lease record; slot 0 has the host record */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, LIBBPF_PIN_BY_NAME);
	__type(key, __u32);
	__type(value, struct chunk);
} book SEC(".maps");
