/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Whose the sockets of a network namespace are: the map by which all programs at the sockets know it. User space enters a namespace
 * once, and each object has the map by its pin.
 */
#pragma once

#include "ports.h"

struct space {
	__u32 slot;
	union {
		__u32 binds;	/* of the host: how often its programs asked for a port by its number */
		__u32 epoch;	/* of a container: of its lease */
	};
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

static __always_inline struct space *space_of(__u64 cookie)
{
	return bpf_map_lookup_elem(&namespaces, &cookie);
}
