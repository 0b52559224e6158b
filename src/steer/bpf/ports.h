/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Who owns which port: the one map that the data path (steer.bpf.c) and the programs at the sockets (sockets.bpf.c) share.
 */
#pragma once

#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

#define MAX_SLOTS 4096		/* 65536 ports / 16, the smallest block; slot 0 is the host */

#define ARRAY(name, entries, value_type, flags)          \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_ARRAY);        \
		__uint(max_entries, entries);            \
		__uint(map_flags, flags);                \
		__uint(pinning, LIBBPF_PIN_BY_NAME);     \
		__type(key, __u32);                      \
		__type(value, value_type);               \
	} name SEC(".maps")

/* port -> slot. The low half is the slot that packets go to; while they go to the host's stack it is 0, and the high half is the
 * slot that the port is reserved for. Written by user space through mmap, so ten thousand ports cost no system call each. */
ARRAY(ports, 65536, __u64, BPF_F_MMAPABLE);
