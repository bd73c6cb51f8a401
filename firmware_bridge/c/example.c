/* An acquisition without a probe: it writes a test pattern into a ring, at a rate or at full speed.
 *
 *     cc -O2 -o asdic-pattern example.c
 *     ./asdic-pattern probe 512 512 30          30 frames a second, until it is ended
 *     ./asdic-pattern probe 512 512 0 1000      1,000 frames as fast as it can
 *
 * Every 64-bit word of a frame follows from the frame's number and the word's place, so that a
 * reader can tell a whole frame from a torn one: number * PATTERN_STEP + place.
 */
#include "asdic_frames.h"

#include <stdlib.h>

#ifndef SLOTS
#define SLOTS 8
#endif
#define PATTERN_STEP UINT64_C(0x9e3779b97f4a7c15)

static void fill(void *pixels, uint64_t bytes, uint64_t number) {
  unsigned char *place = (unsigned char *)pixels;
  uint64_t word = number * PATTERN_STEP;
  for (; bytes >= sizeof word; bytes -= sizeof word, place += sizeof word, word++)
    memcpy(place, &word, sizeof word);
  memcpy(place, &word, (size_t)bytes);
}

static void sleep_until(uint64_t due_ns) {
  struct timespec due;
  due.tv_sec = (time_t)(due_ns / 1000000000u);
  due.tv_nsec = (long)(due_ns % 1000000000u);
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL) == EINTR) continue;
}

int main(int count, char **words) {
  asdic_frames ring;
  asdic_frame_format format = {0, 0, ASDIC_UINT8, ASDIC_GREY, 1.0};
  uint64_t due_ns, written, limit = UINT64_MAX;
  double rate;
  if (count < 5) {
    fprintf(stderr, "usage: %s RING HEIGHT WIDTH FRAMES_PER_SECOND [FRAMES]\n", words[0]);
    return 2;
  }
  format.height = (uint32_t)strtoul(words[2], NULL, 10);
  format.width = (uint32_t)strtoul(words[3], NULL, 10);
  rate = strtod(words[4], NULL);
  if (count > 5) limit = strtoull(words[5], NULL, 10);
  if (asdic_frames_open(&ring, words[1], &format, SLOTS) != 0) {
    fprintf(stderr, "%s: %s\n", words[1], ring.error);
    return 1;
  }
  due_ns = asdic_frames_now_();
  for (written = 0; written < limit; written++) {
    fill(asdic_frames_begin(&ring), asdic_frames_bytes(&ring), ring.next);
    asdic_frames_commit(&ring, 0);
    if (rate > 0) sleep_until(due_ns += (uint64_t)(1e9 / rate));
  }
  asdic_frames_close(&ring);
  return 0;
}
