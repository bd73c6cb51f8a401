/* A program that says what it reads: the application contract by hand, or from a shell script.
 *
 *     cc -std=c99 -O2 -o asdic-say example.c asdic_application.c
 *     printf 'current\nbusy 600\n' | ./asdic-say /var/lib/asdic
 *
 * Lines in: current | busy SECONDS | loaded INFERENCES | health INFERENCES ERRORS [REASON] |
 * failed REASON | nothing. `loaded` and `health` speak of the release that was named by `current`
 * last, `failed` of the one that was named by the last answer and cannot be loaded. Each is
 * answered by one line: what became of the call, then version, manifest and folder of what to run,
 * or the error. It ends with its input, and with it what it said; an exam goes on.
 */
#include "asdic_application.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TIMEOUT_MS 2000

static asdic_status say(asdic_connection *agent, const char *line, asdic_release *named,
                        asdic_release *wanted) {
  double seconds;
  int words = 0;
  uint64_t inferences;
  asdic_counts counts = {.latency_ms_p50 = -1.0};
  if (strcmp(line, "current") == 0) {
    asdic_status status = asdic_current(agent, wanted);
    if (status == ASDIC_OK) *named = *wanted;
    return status;
  }
  if (sscanf(line, "busy %lf", &seconds) == 1) return asdic_busy(agent, seconds, wanted);
  if (sscanf(line, "loaded %" SCNu64, &inferences) == 1)
    return asdic_loaded(agent, named, inferences, wanted);
  if (sscanf(line, "health %" SCNu64 " %" SCNu64 " %n", &counts.inferences, &counts.errors,
             &words) == 2) {
    counts.reason = line[words] != '\0' ? line + words : NULL;
    counts.latency_ms_p50 = 12.5;
    return asdic_health(agent, named, &counts, wanted);
  }
  if (strncmp(line, "failed ", 7) == 0) {
    asdic_counts failure = {
        .errors = 1, .latency_ms_p50 = -1.0, .reason = line + 7, .still = named->manifest};
    return asdic_health(agent, wanted, &failure, wanted);
  }
  if (strcmp(line, "nothing") == 0) return asdic_health(agent, NULL, NULL, wanted);
  snprintf(agent->error, sizeof agent->error, "not a call: %.400s", line);
  return ASDIC_ARGUMENT;
}

int main(int count, char **words) {
  static asdic_connection agent;
  static asdic_release named, wanted;
  char line[2048];
  if (count != 2) {
    fprintf(stderr, "usage: %s STATE_FOLDER <calls\n", words[0]);
    return 2;
  }
  if (asdic_connect(&agent, words[1], TIMEOUT_MS) != ASDIC_OK) {
    fprintf(stderr, "%s\n", agent.error);
    return 1;
  }
  while (fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    asdic_status status = say(&agent, line, &named, &wanted);
    if (status != ASDIC_OK) printf("%s %s\n", asdic_text(status), agent.error);
    else if (wanted.manifest[0] == '\0') printf("ok no model\n");
    else printf("ok %s %s %s\n", wanted.version, wanted.manifest, wanted.folder);
    fflush(stdout);
  }
  asdic_close(&agent);
  return 0;
}
