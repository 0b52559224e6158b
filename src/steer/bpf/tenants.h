/* SPDX-License-Identifier: (GPL-2.0-only OR MIT)
 *
 * Who has which slot, and its block. User space writes it through mmap.
 */
#pragma once

#include "ports.h"

struct tenant {			/* of a slot; entry 0: epoch, slot and block given out last */
	__u64 netns;		/* inode of the namespace */
	__u64 id;		/* fnv1a64 of the container id; entry 0: epoch given out last */
	__u32 stamp;		/* while leased: number of what it was given; then: seconds of CLOCK_BOOTTIME when it became
				 * free; entry 0: slot given out last */
	__u16 begin;		/* of its block, 0 for none; entry 0: where the search for a block goes on */
	__u8 state;		/* 0 never used, 1 leased, 2 the block rests */
	__u8 size;		/* of its block, as a power of two */
};

_Static_assert(sizeof(struct tenant) == 24, "struct tenant");

ARRAY(tenants, MAX_SLOTS, struct tenant, BPF_F_MMAPABLE);
