/* The writer's end of a frame ring of asdic: images out of an acquisition process, into shared
 * memory, for any number of readers. One header; C99, C11 or C++11 with GCC or Clang; Linux.
 *
 *     asdic_frame_format format = {512, 512, ASDIC_UINT8, ASDIC_GREY, 1.0};
 *     asdic_frames ring;
 *     if (asdic_frames_open(&ring, "probe", &format, 8) != 0) ...ring.error says why...
 *     for (;;) {
 *       void *pixels = asdic_frames_begin(&ring);      the ring's own memory: no copy
 *       ...fill asdic_frames_bytes(&ring) bytes...
 *       asdic_frames_commit(&ring, captured_ns);       CLOCK_MONOTONIC; 0 is now
 *     }
 *     asdic_frames_close(&ring);
 *
 * After open, nothing here waits, locks, allocates or makes a system call: readers cannot hold up
 * a writer. (The time comes from clock_gettime, which Linux answers without one where the clock
 * source is the processor's; give captured_ns and ASDIC_FRAMES_NO_CLOCK to do without.) The process
 * may be killed at any instant: readers get whole frames only, and the next writer goes on in the
 * same ring. A ring of another format takes the place of the old one, and readers are told.
 *
 * One ring has one writer, and one asdic_frames is for one thread. Include this header before
 * others, or compile with -D_DEFAULT_SOURCE where -std=c99 or -std=c11 hides POSIX.
 *
 * The layout is told in firmware_bridge/ring_layout.py; a test holds the two together.
 */
#ifndef ASDIC_FRAMES_H
#define ASDIC_FRAMES_H

#if !defined(_DEFAULT_SOURCE) && !defined(_GNU_SOURCE)
#define _DEFAULT_SOURCE 1
#endif

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#if !defined(CLOCK_MONOTONIC) || !defined(MAP_POPULATE) || !defined(O_NOFOLLOW)
#error "include asdic_frames.h before other headers, or compile with -D_DEFAULT_SOURCE"
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define ASDIC_FRAMES_LAYOUT 1u
#define ASDIC_FRAMES_HEADER_BYTES 4096u
#define ASDIC_FRAMES_SLOT_HEADER_BYTES 64u
#define ASDIC_FRAMES_SLOTS_LIMIT 1024u
#define ASDIC_FRAMES_SIDE_LIMIT 16384u
#define ASDIC_FRAMES_LIMIT_BYTES (UINT64_C(1) << 30)
#define ASDIC_FRAMES_LOCK_TRIES 200 /* of 10 ms each */

typedef enum { ASDIC_UINT8 = 1, ASDIC_UINT16 = 2, ASDIC_INT16 = 3, ASDIC_FLOAT32 = 4 } asdic_dtype;
typedef enum { ASDIC_GREY = 1, ASDIC_RGB = 3 } asdic_channels;

/* What every frame of a ring is; pixels lie row by row, RGB interleaved. A real value is the stored
 * one times `scale`. */
typedef struct {
  uint32_t height;
  uint32_t width;
  uint32_t dtype;    /* asdic_dtype */
  uint32_t channels; /* asdic_channels */
  double scale;
} asdic_frame_format;

/* The ring's first bytes. Those up to `check` never change; the three words below do. */
typedef struct {
  char magic[8];
  uint32_t layout;
  uint32_t order;
  uint32_t header_bytes;
  uint32_t slots;
  uint64_t slot_bytes;
  uint64_t frame_bytes;
  asdic_frame_format format;
  uint64_t format_id;
  uint64_t generation;
  uint64_t boot;
  uint64_t check;
  unsigned char unused[32];
  uint64_t written;   /* frames; the last thing that a writer stores */
  uint64_t lost;      /* frames that never reached the ring */
  uint64_t successor; /* the generation that took over, or 0 */
} asdic_frames_header;

/* What stands before each slot's pixels. */
typedef struct {
  uint64_t sequence; /* 2 n + 1 while frame n is being written, 2 n + 2 when it is whole */
  uint64_t captured_ns;
  uint64_t committed_ns;
  uint64_t lost_before;
} asdic_frames_slot;

/* A ring; who uses it reads `error` and touches nothing else. */
typedef struct {
  asdic_frames_header *header;
  uint64_t bytes;
  uint64_t slots; /* of our own: what lies in shared memory is not believed later on */
  uint64_t slot_bytes;
  uint64_t frame_bytes;
  uint64_t next; /* number of the frame that is written next */
  int lock;
  int is_begun;
  char error[192];
} asdic_frames;

/* ---- the writer's path ---- */

static inline asdic_frames_slot *asdic_frames_slot_(const asdic_frames *ring) {
  return (asdic_frames_slot *)(void *)((unsigned char *)ring->header + ASDIC_FRAMES_HEADER_BYTES +
                                       (ring->next % ring->slots) * ring->slot_bytes);
}

static inline uint64_t asdic_frames_now_(void) {
#ifdef ASDIC_FRAMES_NO_CLOCK
  return 0;
#else
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * UINT64_C(1000000000) + (uint64_t)now.tv_nsec;
#endif
}

/* Return how many bytes a frame has. */
static inline uint64_t asdic_frames_bytes(const asdic_frames *ring) {
  return ring->frame_bytes;
}

/* Say that frames were lost before they reached the ring: an overrun, a bad checksum. */
static inline void asdic_frames_lost(asdic_frames *ring, uint64_t frames) {
  __atomic_store_n(&ring->header->lost, ring->header->lost + frames, __ATOMIC_RELAXED);
}

/* Return the memory for the next frame, aligned to 64 bytes. The oldest frame is gone from now on.
 * A frame that was begun and not committed counts as lost. */
static inline void *asdic_frames_begin(asdic_frames *ring) {
  asdic_frames_slot *slot = asdic_frames_slot_(ring);
  if (ring->is_begun) asdic_frames_lost(ring, 1);
  ring->is_begun = 1;
  __atomic_store_n(&slot->sequence, 2 * ring->next + 1, __ATOMIC_RELAXED);
  __atomic_thread_fence(__ATOMIC_RELEASE); /* no pixel is stored before the mark above */
  return (unsigned char *)slot + ASDIC_FRAMES_SLOT_HEADER_BYTES;
}

/* Give the frame that was begun to the readers, and return its number; UINT64_MAX where none was
 * begun. */
static inline uint64_t asdic_frames_commit(asdic_frames *ring, uint64_t captured_ns) {
  asdic_frames_slot *slot = asdic_frames_slot_(ring);
  const uint64_t number = ring->next;
  const uint64_t now_ns = asdic_frames_now_();
  if (!ring->is_begun) return UINT64_MAX;
  __atomic_store_n(&slot->captured_ns, captured_ns ? captured_ns : now_ns, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->committed_ns, now_ns ? now_ns : captured_ns, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->lost_before, ring->header->lost, __ATOMIC_RELAXED);
  __atomic_store_n(&slot->sequence, 2 * number + 2, __ATOMIC_RELEASE);
  __atomic_store_n(&ring->header->written, number + 1, __ATOMIC_RELEASE);
  ring->next = number + 1;
  ring->is_begun = 0;
  return number;
}

/* Copy a frame into the ring, and return its number. */
static inline uint64_t asdic_frames_write(asdic_frames *ring, const void *pixels,
                                          uint64_t captured_ns) {
  memcpy(asdic_frames_begin(ring), pixels, (size_t)ring->frame_bytes);
  return asdic_frames_commit(ring, captured_ns);
}

/* ---- opening and closing ---- */

static inline int asdic_frames_fail_(asdic_frames *ring, const char *what, int code) {
  snprintf(ring->error, sizeof ring->error, "%s%s%s", what, code ? ": " : "",
           code ? strerror(code) : "");
  return -1;
}

/* The sum of Fowler, Noll and Vo, 64 bits, 1a. */
static inline uint64_t asdic_frames_sum_(const void *data, size_t bytes) {
  const unsigned char *byte = (const unsigned char *)data;
  uint64_t sum = UINT64_C(0xcbf29ce484222325);
  for (; bytes > 0; bytes--) sum = (sum ^ *byte++) * UINT64_C(0x100000001b3);
  return sum;
}

/* Tell this start of the machine from others: the clock starts anew with each. */
static inline uint64_t asdic_frames_boot_(void) {
  char id[64];
  ssize_t length;
  int file = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
  if (file < 0) return 0;
  length = read(file, id, sizeof id);
  close(file);
  while (length > 0 && id[length - 1] == '\n') length--;
  return length > 0 ? asdic_frames_sum_(id, (size_t)length) : 0;
}

/* Fill in what never changes; return -1 where there cannot be such a ring. */
static inline int asdic_frames_header_(asdic_frames *ring, asdic_frames_header *header,
                                       const asdic_frame_format *format, uint32_t slots,
                                       uint64_t generation) {
  static const uint32_t item_bytes[] = {0, 1, 2, 2, 4};
  if (format->height < 1 || format->height > ASDIC_FRAMES_SIDE_LIMIT || format->width < 1 ||
      format->width > ASDIC_FRAMES_SIDE_LIMIT)
    return asdic_frames_fail_(ring, "a frame's sides are 1 to 16384 pixels", 0);
  if (format->dtype < ASDIC_UINT8 || format->dtype > ASDIC_FLOAT32)
    return asdic_frames_fail_(ring, "a frame's dtype is unknown", 0);
  if (format->channels != ASDIC_GREY && format->channels != ASDIC_RGB)
    return asdic_frames_fail_(ring, "a frame's channels are unknown", 0);
  if (!(format->scale > 0) || !(format->scale - format->scale >= 0)) /* nor infinite */
    return asdic_frames_fail_(ring, "a frame's scale is a positive number", 0);
  if (slots < 2 || slots > ASDIC_FRAMES_SLOTS_LIMIT)
    return asdic_frames_fail_(ring, "a ring has 2 to 1024 slots", 0);
  memset(header, 0, sizeof *header);
  memcpy(header->magic, "ASDICRNG", sizeof header->magic);
  header->layout = ASDIC_FRAMES_LAYOUT;
  header->order = 0x01020304u;
  header->header_bytes = ASDIC_FRAMES_HEADER_BYTES;
  header->slots = slots;
  header->frame_bytes =
      (uint64_t)format->height * format->width * format->channels * item_bytes[format->dtype];
  header->slot_bytes =
      (header->frame_bytes + ASDIC_FRAMES_SLOT_HEADER_BYTES + 63) / 64 * 64;
  if (header->slot_bytes * slots + ASDIC_FRAMES_HEADER_BYTES > ASDIC_FRAMES_LIMIT_BYTES)
    return asdic_frames_fail_(ring, "a ring has 1 GiB at most", 0);
  header->format = *format;
  header->format_id = asdic_frames_sum_(&header->format, sizeof header->format);
  header->generation = generation;
  header->boot = asdic_frames_boot_();
  header->check =
      asdic_frames_sum_(header, (size_t)((char *)&header->check - (char *)header));
  return 0;
}

static inline uint64_t asdic_frames_size_(const asdic_frames_header *header) {
  return ASDIC_FRAMES_HEADER_BYTES + header->slot_bytes * header->slots;
}

static inline int asdic_frames_map_(asdic_frames *ring, int file, uint64_t bytes) {
  void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
  if (memory == MAP_FAILED) return asdic_frames_fail_(ring, "cannot map the ring", errno);
  ring->header = (asdic_frames_header *)memory;
  ring->bytes = bytes;
  return 0;
}

/* Wait for whoever makes the ring just now, but not for a writer. */
static inline int asdic_frames_lock_(asdic_frames *ring, const char *path) {
  const struct timespec pause = {0, 10000000};
  int tries = ASDIC_FRAMES_LOCK_TRIES;
  ring->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0640);
  if (ring->lock < 0) return asdic_frames_fail_(ring, "cannot lock the ring", errno);
  while (flock(ring->lock, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK && errno != EINTR)
      return asdic_frames_fail_(ring, "cannot lock the ring", errno);
    if (--tries == 0) return asdic_frames_fail_(ring, "another process writes the ring", 0);
    nanosleep(&pause, NULL);
  }
  return 0;
}

/* Read the header of the ring that is there: 1 if there is one that is sound, 0 if there is none or
 * a damaged one, -1 if it is nothing that may be replaced. */
static inline int asdic_frames_found_(asdic_frames *ring, int file, asdic_frames_header *found) {
  struct stat status;
  asdic_frames_header sound;
  memset(found, 0, sizeof *found);
  if (fstat(file, &status) != 0) return asdic_frames_fail_(ring, "cannot read the ring", errno);
  if (!S_ISREG(status.st_mode) || pread(file, found, sizeof *found, 0) < 8 ||
      memcmp(found->magic, "ASDICRNG", sizeof found->magic) != 0)
    return asdic_frames_fail_(ring, "the file is not a frame ring; remove it", 0);
  if (status.st_uid != geteuid() && status.st_uid != 0)
    return asdic_frames_fail_(ring, "the ring belongs to another user; remove it", 0);
  if (asdic_frames_header_(ring, &sound, &found->format, found->slots, found->generation) != 0)
    return 0;
  return memcmp(&sound, found, offsetof(asdic_frames_header, unused)) == 0 &&
         asdic_frames_size_(found) == (uint64_t)status.st_size;
}

/* Make a ring and put it in the place of what is there. */
static inline int asdic_frames_make_(asdic_frames *ring, const char *path, const char *temporary,
                                     const asdic_frames_header *wanted) {
  const uint64_t bytes = asdic_frames_size_(wanted);
  int code, file;
  unlink(temporary); /* left by one who was killed; the lock is ours */
  file = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
  if (file < 0) return asdic_frames_fail_(ring, "cannot make the ring", errno);
  code = posix_fallocate(file, 0, (off_t)bytes); /* missing memory would be SIGBUS later */
  if (code != 0) asdic_frames_fail_(ring, "no memory for the ring", code);
  if (code == 0 && (code = asdic_frames_map_(ring, file, bytes)) == 0) {
    memcpy(ring->header, wanted, sizeof *wanted);
    if ((code = rename(temporary, path)) != 0) asdic_frames_fail_(ring, "cannot make the ring", errno);
  }
  close(file);
  if (code != 0) unlink(temporary);
  return code != 0 ? -1 : 0;
}

/* Go on where a writer stopped, or was killed. */
static inline void asdic_frames_recover_(asdic_frames *ring) {
  uint64_t sequence;
  ring->next = __atomic_load_n(&ring->header->written, __ATOMIC_ACQUIRE);
  sequence = __atomic_load_n(&asdic_frames_slot_(ring)->sequence, __ATOMIC_ACQUIRE);
  if (sequence == 2 * ring->next + 2) /* whole, but not announced */
    __atomic_store_n(&ring->header->written, ++ring->next, __ATOMIC_RELEASE);
  else if (sequence == 2 * ring->next + 1)
    asdic_frames_lost(ring, 1);
}

static inline void asdic_frames_close(asdic_frames *ring);

static inline int asdic_frames_attach_(asdic_frames *ring, const char *path, const char *temporary,
                                       const asdic_frame_format *format, uint32_t slots) {
  asdic_frames_header found, wanted;
  asdic_frames old;
  int is_sound = 0, is_same = 0, file;
  memset(&old, 0, sizeof old);
  file = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (file < 0 && errno != ENOENT) return asdic_frames_fail_(ring, "cannot open the ring", errno);
  if (file >= 0) is_sound = asdic_frames_found_(ring, file, &found);
  if (is_sound >= 0 &&
      asdic_frames_header_(ring, &wanted, format, slots, is_sound ? found.generation : 1) == 0) {
    is_same = is_sound && memcmp(&wanted, &found, offsetof(asdic_frames_header, unused)) == 0;
    if (is_sound && asdic_frames_map_(is_same ? ring : &old, file, asdic_frames_size_(&found)) != 0)
      is_sound = -1;
  } else {
    is_sound = -1;
  }
  if (file >= 0) close(file);
  if (is_sound < 0) return -1;
  if (!is_same) {
    /* The sum covers the generation, so the header is filled in again. */
    asdic_frames_header_(ring, &wanted, format, slots, is_sound ? found.generation + 1 : 1);
    if (asdic_frames_make_(ring, path, temporary, &wanted) != 0) is_sound = -1;
    if (is_sound > 0)
      __atomic_store_n(&old.header->successor, wanted.generation, __ATOMIC_RELEASE);
    if (old.header != NULL) munmap(old.header, (size_t)old.bytes);
    if (is_sound < 0) return -1;
  }
  ring->slots = slots;
  ring->slot_bytes = wanted.slot_bytes;
  ring->frame_bytes = wanted.frame_bytes;
  ring->error[0] = '\0';
  asdic_frames_recover_(ring);
  return 0;
}

/* Open the ring of this name ("probe", in shared memory) or path ("/run/acquisition/probe"), made
 * anew where there is none. Return 0, or -1 and why in ring->error. */
static inline int asdic_frames_open(asdic_frames *ring, const char *name,
                                    const asdic_frame_format *format, uint32_t slots) {
  char path[1024], lock[1040], temporary[1040];
  const char *base = strrchr(name, '/');
  int length;
  memset(ring, 0, sizeof *ring);
  ring->lock = -1;
  length = snprintf(path, sizeof path, "%s%s", base != NULL ? "" : "/dev/shm/asdic-", name);
  if (length >= (int)sizeof path || name[0] == '\0' || (base != NULL && base[1] == '\0'))
    return asdic_frames_fail_(ring, "the ring's name is empty or too long", 0);
  base = strrchr(path, '/') + 1;
  snprintf(lock, sizeof lock, "%s.lock", path);
  snprintf(temporary, sizeof temporary, "%.*s.%s.new", (int)(base - path), path, base);
  if (asdic_frames_lock_(ring, lock) != 0 ||
      asdic_frames_attach_(ring, path, temporary, format, slots) != 0) {
    asdic_frames_close(ring);
    return -1;
  }
  return 0;
}

/* Leave the ring as it is; another writer may go on in it. */
static inline void asdic_frames_close(asdic_frames *ring) {
  if (ring->header != NULL) munmap(ring->header, (size_t)ring->bytes);
  if (ring->lock >= 0) close(ring->lock);
  ring->header = NULL;
  ring->lock = -1;
}

#ifdef __cplusplus
}
#endif

#endif
