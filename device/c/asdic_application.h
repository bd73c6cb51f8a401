/* The application contract of asdic, for a program in C that runs the model itself.
 *
 * Add this header and asdic_application.c to the program: C99 and Linux, no other library, no
 * memory of its own. One connection is for one thread.
 *
 *     asdic_connection agent;
 *     asdic_release wanted;
 *     if (asdic_connect(&agent, "/var/lib/asdic", 1000) != ASDIC_OK) ...agent.error says why...
 *     if (asdic_current(&agent, &wanted) == ASDIC_OK && wanted.manifest[0] != '\0')
 *         ...open the files in wanted.folder, infer once...
 *     asdic_loaded(&agent, &opened, 1, &wanted);              that it has answered
 *     asdic_health(&agent, &opened, &counts, &wanted);        twice a second; names the next one
 *     asdic_busy(&agent, 600.0, &wanted);                     change nothing for ten minutes
 *
 * Every call tells what to run now. Where wanted.manifest differs from what is open, open the new
 * one, swap between two frames, infer once, and say asdic_loaded again; say asdic_health with no
 * release (NULL) first if the old one is let go of before. After ASDIC_GONE go on inferring, and
 * call asdic_connect again now and then.
 */
#ifndef ASDIC_APPLICATION_H
#define ASDIC_APPLICATION_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ASDIC_LINE_BYTES 16384 /* of one answer; a longer one is refused */

typedef enum {
  ASDIC_OK = 0,
  ASDIC_GONE,     /* no agent listens, it hung up, or it did not answer in time */
  ASDIC_GARBAGE,  /* what answers does not speak the contract, or says more than fits */
  ASDIC_REFUSED,  /* the agent answers with an error; the connection still stands */
  ASDIC_ARGUMENT  /* an argument makes no sense; nothing was sent */
} asdic_status;

/* What to run. An empty manifest means that there is no model. */
typedef struct {
  char manifest[128]; /* its digest, which is its name */
  char version[128];
  char folder[4096]; /* variant.json and the files that it names; never changed */
  char cache[4096];  /* for what this machine builds from the model */
  char error[512];   /* what the agent answers with ASDIC_REFUSED */
} asdic_release;

/* How it goes, counted since the release was loaded. */
typedef struct {
  uint64_t inferences;
  uint64_t errors;
  double latency_ms_p50; /* median; negative where it is not known */
  const char *reason;    /* the last error, or NULL; 500 bytes are sent */
  const char *still;     /* manifest of the release that goes on answering where this one cannot
                            be loaded, or NULL */
} asdic_counts;

/* A connection; who uses it reads `error` and touches nothing else. */
typedef struct {
  int socket;
  int timeout_ms;
  char error[512];
  char line[ASDIC_LINE_BYTES];
} asdic_connection;

/* Connect to the agent that works on a state folder; each call then waits for at most timeout_ms.
 */
asdic_status asdic_connect(asdic_connection *agent, const char *state_folder, int timeout_ms);

/* Ask what to run. */
asdic_status asdic_current(asdic_connection *agent, asdic_release *wanted);

/* Let nothing change for so many seconds, say for an exam; 0 ends it. */
asdic_status asdic_busy(asdic_connection *agent, double seconds, asdic_release *wanted);

/* Acknowledge that a release is loaded and has made so many inferences. */
asdic_status asdic_loaded(asdic_connection *agent, const asdic_release *loaded,
                          uint64_t inferences, asdic_release *wanted);

/* Say how it goes with a release: with errors for one that cannot be loaded, and with no release
 * and no counts (NULL) where none is loaded. */
asdic_status asdic_health(asdic_connection *agent, const asdic_release *loaded,
                          const asdic_counts *counts, asdic_release *wanted);

/* Hang up: this program runs nothing any more. An exam goes on. */
void asdic_close(asdic_connection *agent);

/* Return what a status means, in a few words. */
const char *asdic_text(asdic_status status);

#ifdef __cplusplus
}
#endif

#endif
