// SPDX-License-Identifier: Apache-2.0 OR MIT OR GPL-2.0-only
//
// Sends every frame of a tap to the AF_XDP socket of its queue, and counts what it does with each. Two programs: the second
// writes the stamp of the NIC before the frame, and asks the driver for it.
//
// Fails open: user space writes CLOCK_MONOTONIC into `control.heartbeat_ns`; once that is older than `stale_ns` the agent
// has stalled (stopped, swapped out, hung) and frames go to the host instead of into a ring nobody reads.
//
// The few kernel definitions needed are written out below (linux/bpf.h is a stable ABI), so that clang alone builds this
// file to the same bytes everywhere.

typedef unsigned int __u32;
typedef unsigned long long __u64;

enum { MAP_ARRAY = 2, MAP_PERCPU_ARRAY = 6, MAP_XSKMAP = 17, F_MMAPABLE = 1 << 10 };
enum { XDP_PASS = 2, XDP_REDIRECT = 4 };

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

static void *(*const map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*const redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static long (*const adjust_meta)(struct xdp_md *ctx, int delta) = (void *)54;
// Stands for the kernel's function bpf_xdp_metadata_rx_timestamp (networking/xdp-rx-metadata), which has no number but a type
// id that differs from kernel to kernel: the loader writes it here. No helper has this number.
static int (*const rx_timestamp)(const struct xdp_md *ctx, __u64 *ns) = (void *)0x7fff0001;
// Reads the time of the last tick: no TSC access, which costs more than the rest of this program in a virtual machine.
static __u64 (*const ktime_get_coarse_ns)(void) = (void *)160;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, value) value *name

struct control {
	__u64 heartbeat_ns;
	__u64 stale_ns;
	// Counters have one entry more, for frames of queues that did not exist at open.
	__u32 queues;
	// What becomes of a frame on a queue without a socket.
	__u32 no_socket_action;
};

struct counters {
	__u64 redirected;
	__u64 no_socket;
	__u64 passed;
};

// What stands before a frame: metadata of XDP, which AF_XDP hands over in the bytes before the frame's first. Its size is not
// handed over; `magic` says that it is there.
struct mark {
	__u64 magic;
	// By the NIC's clock, 0 for a frame that it did not stamp.
	__u64 nic_ns;
};

#define MARK_MAGIC 0x706d617473636e67ull

struct {
	UINT(type, MAP_ARRAY);
	UINT(map_flags, F_MMAPABLE);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct control);
} control SEC(".maps");

// The sizes of these two are set at load.
struct {
	UINT(type, MAP_PERCPU_ARRAY);
	UINT(max_entries, 2);
	TYPE(key, __u32);
	TYPE(value, struct counters);
} counters SEC(".maps");

struct {
	UINT(type, MAP_XSKMAP);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, __u32);
} sockets SEC(".maps");

static inline __attribute__((always_inline)) int deliver(struct xdp_md *ctx)
{
	__u32 zero = 0;
	__u32 queue = ctx->rx_queue_index;
	struct control *settings = map_lookup_elem(&control, &zero);
	struct counters *count;
	__u32 slot;
	__u64 beat, now;
	long action;

	if (!settings)
		return XDP_PASS;
	slot = queue < settings->queues ? queue : settings->queues;
	count = map_lookup_elem(&counters, &slot);
	if (!count)
		return XDP_PASS;

	beat = *(volatile __u64 *)&settings->heartbeat_ns;
	now = ktime_get_coarse_ns();
	// The coarse clock may lag behind a fresh heartbeat by a tick.
	if (now > beat && now - beat > settings->stale_ns) {
		count->passed++;
		return XDP_PASS;
	}
	action = redirect_map(&sockets, queue, settings->no_socket_action);
	if (action == XDP_REDIRECT) {
		count->redirected++;
		// Or the compiler makes one addition of the two, at an address it computes: that asks for CAP_PERFMON.
		asm volatile("" ::: "memory");
	} else {
		count->no_socket++;
	}
	return action;
}

SEC("xdp.frags")
int gnomon_xdp(struct xdp_md *ctx)
{
	return deliver(ctx);
}

// Loaded for one interface, whose driver then answers `rx_timestamp`. Every frame gets a mark, with a stamp or without: else
// the mark of an earlier frame in the same buffer would be taken for its own.
SEC("xdp.frags")
int gnomon_xdp_nic(struct xdp_md *ctx)
{
	__u64 ns = 0;
	struct mark *mark;

	// Before the mark is made: a driver may keep its stamp where the mark will be.
	if (rx_timestamp(ctx, &ns))
		ns = 0;
	if (!adjust_meta(ctx, -(int)sizeof(*mark))) {
		mark = (void *)(long)ctx->data_meta;
		if ((void *)(mark + 1) <= (void *)(long)ctx->data) {
			mark->magic = MARK_MAGIC;
			mark->nic_ns = ns;
		}
	}
	return deliver(ctx);
}

// None of the helpers above asks for a GPL program. `rx_timestamp` does: see docs/adr/0015.
char _license[] SEC("license") = "Apache-2.0";
