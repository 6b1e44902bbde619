// SPDX-License-Identifier: Apache-2.0
//
// Makes a stream of UDP packets out of frames that the kernel recycles (BPF_PROG_TEST_RUN with live frames): each run
// gives one frame its length, its flow and its payload, and sends it out of an interface; or keeps it back because it is
// not due yet.
//
// A flow is a client's address and port; packets go round over all flows, first in one direction, then in the other, so
// that a receiver's table is touched in the order that caches like least.
//
// The few kernel definitions needed are written out below (linux/bpf.h is a stable ABI), so that clang alone builds this.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

enum { MAP_ARRAY = 2 };
enum { XDP_DROP = 1, XDP_PASS = 2 };

struct xdp_md {
	__u32 data;
	__u32 data_end;
	__u32 data_meta;
	__u32 ingress_ifindex;
	__u32 rx_queue_index;
	__u32 egress_ifindex;
};

static void *(*const map_lookup_elem)(void *map, const void *key) = (void *)1;
static __u64 (*const ktime_get_ns)(void) = (void *)5;
static long (*const redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*const adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, value) value *name

#define LENGTHS 12
#define FRAME_MAX 1514
#define HEADERS 42

// Set at load. `volatile`: the compiler must not believe the values below.
volatile const __u32 IFINDEX = 0;
volatile const __u32 FLOWS = 1;
// Nanoseconds between two packets, in 1/1024; 0: as fast as it goes.
volatile const __u64 INTERVAL_NS_1024 = 0;
// Nanoseconds that may be caught up with after a pause.
volatile const __u64 BURST_NS = 0;
// Lengths of frames in turn, as they come round.
volatile const __u16 LENGTH[LENGTHS] = {60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60};
// Fill the payload with noise, as encrypted traffic would; else it is whatever the frame holds.
volatile const __u32 NOISE = 1;

struct state {
	__u64 sent;
	__u64 bytes;
	// Runs at which nothing was due.
	__u64 idle;
	// Stop after as many.
	__u64 limit;
	__u64 due_ns;
	__u64 due_1024;
	__u64 now_ns;
	__u64 seed;
	__u32 flow;
	__u32 backwards;
	__u32 turn;
	__u32 _pad;
};

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	TYPE(key, __u32);
	TYPE(value, struct state);
} state SEC(".maps");

static __u16 swap16(__u16 value)
{
	return __builtin_bswap16(value);
}

// Whether a packet is due. The clock, which is dear in a virtual machine, is read only once what was due is sent.
static int due(struct state *s)
{
	if (!INTERVAL_NS_1024)
		return 1;
	if (s->due_ns > s->now_ns) {
		s->now_ns = ktime_get_ns();
		if (s->due_ns > s->now_ns)
			return 0;
		if (s->now_ns - s->due_ns > BURST_NS)
			s->due_ns = s->now_ns - BURST_NS;
	}
	s->due_1024 += INTERVAL_NS_1024;
	s->due_ns += s->due_1024 >> 10;
	s->due_1024 &= 1023;
	return 1;
}

SEC("xdp")
int flood(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct state *s = map_lookup_elem(&state, &zero);
	__u32 turn, length, flow, client, server = 0x0a800001, source, destination, sum;
	__u16 port, i;
	__u64 noise;
	__u8 *frame, *end, *at;

	// A frame that came to the interface this program is attached to: see main.rs.
	if (ctx->ingress_ifindex == IFINDEX)
		return XDP_PASS;
	if (!s)
		return XDP_DROP;
	if (s->sent >= s->limit)
		return XDP_DROP;
	if (!due(s)) {
		s->idle++;
		return XDP_DROP;
	}

	turn = s->turn;
	if (turn >= LENGTHS)
		turn = 0;
	length = LENGTH[turn];
	s->turn = turn + 1;
	if (length < 60 || length > FRAME_MAX)
		return XDP_DROP;
	if (length < FRAME_MAX && adjust_tail(ctx, (int)length - FRAME_MAX))
		return XDP_DROP;
	frame = (__u8 *)(long)ctx->data;
	end = (__u8 *)(long)ctx->data_end;
	if (frame + 60 > end)
		return XDP_DROP;

	flow = s->flow;
	// (low 16 bits, high bits) of the flow are (address, port) of its client; the port varies with the low bits too.
	client = 0x0a400000 | (flow & 0xffff);
	port = 20000 + (flow & 1023) + (flow >> 16);
	source = s->backwards ? server : client;
	destination = s->backwards ? client : server;
	if (++flow >= FLOWS) {
		flow = 0;
		s->backwards = !s->backwards;
	}
	s->flow = flow;

	// Addressed from and to others than the receiver, as on a mirror port.
	*(__u32 *)(frame + 0) = 0x00000002;
	*(__u16 *)(frame + 4) = 0x0100;
	*(__u16 *)(frame + 6) = 0x0002;
	*(__u32 *)(frame + 8) = 0x02000000;
	*(__u16 *)(frame + 12) = swap16(0x0800);
	*(__u16 *)(frame + 14) = swap16(0x4500);
	*(__u16 *)(frame + 16) = swap16(length - 14);
	*(__u16 *)(frame + 18) = swap16((__u16)s->sent);
	*(__u16 *)(frame + 20) = swap16(0x4000);
	*(__u16 *)(frame + 22) = swap16(0x4011);
	sum = 0x4500 + (length - 14) + (__u16)s->sent + 0x4000 + 0x4011;
	sum += (source >> 16) + (source & 0xffff) + (destination >> 16) + (destination & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	*(__u16 *)(frame + 24) = swap16((__u16)~sum);
	*(__u16 *)(frame + 26) = swap16(source >> 16);
	*(__u16 *)(frame + 28) = swap16((__u16)source);
	*(__u16 *)(frame + 30) = swap16(destination >> 16);
	*(__u16 *)(frame + 32) = swap16((__u16)destination);
	*(__u16 *)(frame + 34) = swap16(s->backwards ? 9999 : port);
	*(__u16 *)(frame + 36) = swap16(s->backwards ? port : 9999);
	*(__u16 *)(frame + 38) = swap16(length - 34);
	// UDP over IPv4 may go without a checksum.
	*(__u16 *)(frame + 40) = 0;

	if (NOISE) {
		noise = s->seed;
		at = frame + HEADERS;
		for (i = 0; i < (FRAME_MAX - HEADERS) / 8; i++) {
			if (at + 8 > end)
				break;
			*(__u64 *)at = noise ^ (noise >> 29);
			noise = noise * 6364136223846793005ULL + 1442695040888963407ULL;
			at += 8;
		}
		s->seed = noise;
	}
	s->sent++;
	s->bytes += length;
	return redirect(IFINDEX, 0);
}

// None of the helpers above asks for a GPL program.
char _license[] SEC("license") = "Apache-2.0";
