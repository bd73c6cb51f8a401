/* See asdic_application.h. A call is one line of JSON each way over a Unix socket. */
#define _POSIX_C_SOURCE 200809L

#include "asdic_application.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define REASON_BYTES 500
#define SECONDS_LIMIT 1e9 /* thirty years; the agent has a limit of its own */
#define DEPTH_LIMIT 16    /* of what a newer agent may add to its answers */

static asdic_status fail(asdic_connection *agent, asdic_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(agent->error, sizeof agent->error, format, arguments);
  va_end(arguments);
  if (status == ASDIC_GONE || status == ASDIC_GARBAGE) asdic_close(agent);
  return status;
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- The call that is being written ---- */

typedef struct {
  char *at;
  char *end; /* one past the last byte that may be written */
  bool fits;
} writer;

static void put(writer *out, const char *format, ...) {
  size_t room = (size_t)(out->end - out->at);
  va_list arguments;
  va_start(arguments, format);
  int wrote = vsnprintf(out->at, room, format, arguments);
  va_end(arguments);
  if (wrote < 0 || (size_t)wrote >= room) out->fits = false;
  else out->at += wrote;
}

static void put_string(writer *out, const char *text, size_t limit) {
  size_t length = 0;
  while (length < limit && text[length] != '\0') length++;
  if (text[length] != '\0') /* cut before a character, not inside one */
    while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80) length--;
  put(out, "\"");
  for (size_t i = 0; i < length; i++) {
    unsigned char byte = (unsigned char)text[i];
    if (byte == '"' || byte == '\\') put(out, "\\%c", byte);
    else if (byte < 0x20) put(out, "\\u%04x", byte);
    else put(out, "%c", byte);
  }
  put(out, "\"");
}

/* Three decimals, with a point in every locale. */
static void put_number(writer *out, double value) {
  uint64_t thousandths = (uint64_t)(value * 1000.0 + 0.5);
  put(out, "%" PRIu64 ".%03" PRIu64, thousandths / 1000, thousandths % 1000);
}

/* ---- The answer that is being read ---- */

typedef struct {
  const char *at; /* the line ends with a zero byte, which no rule accepts */
} reader;

static void skip_space(reader *in) {
  while (*in->at == ' ' || *in->at == '\t' || *in->at == '\r') in->at++;
}

static bool take(reader *in, char wanted) {
  skip_space(in);
  if (*in->at != wanted) return false;
  in->at++;
  return true;
}

static bool take_word(reader *in, const char *word) {
  size_t length = strlen(word);
  if (strncmp(in->at, word, length) != 0) return false;
  in->at += length;
  return true;
}

static bool take_hex(reader *in, uint32_t *unit) {
  *unit = 0;
  for (int i = 0; i < 4; i++, in->at++) {
    char digit = *in->at;
    uint32_t value;
    if (digit >= '0' && digit <= '9') value = (uint32_t)(digit - '0');
    else if (digit >= 'a' && digit <= 'f') value = (uint32_t)(digit - 'a') + 10;
    else if (digit >= 'A' && digit <= 'F') value = (uint32_t)(digit - 'A') + 10;
    else return false;
    *unit = *unit * 16 + value;
  }
  return true;
}

/* Take what follows \u: a code point, of two units where it is beyond the first 65,536. */
static bool take_code_point(reader *in, uint32_t *point) {
  uint32_t low;
  if (!take_hex(in, point)) return false;
  if (*point < 0xD800 || *point > 0xDFFF) return *point != 0;
  if (*point > 0xDBFF || !take_word(in, "\\u") || !take_hex(in, &low)) return false;
  if (low < 0xDC00 || low > 0xDFFF) return false;
  *point = 0x10000 + ((*point - 0xD800) << 10) + (low - 0xDC00);
  return true;
}

static size_t as_utf8(uint32_t point, char bytes[4]) {
  if (point < 0x80) {
    bytes[0] = (char)point;
    return 1;
  }
  size_t length = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  static const unsigned char first[] = {0, 0, 0xC0, 0xE0, 0xF0};
  for (size_t i = length - 1; i > 0; i--, point >>= 6) bytes[i] = (char)(0x80 | (point & 0x3F));
  bytes[0] = (char)(first[length] | point);
  return length;
}

/* Take one character of a string, escaped or not; return its bytes, or 0 for what is no JSON. */
static size_t take_character(reader *in, char bytes[4]) {
  static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
  uint32_t point;
  if ((unsigned char)*in->at < 0x20) return 0; /* the end of the line is among them */
  if (*in->at != '\\') {
    bytes[0] = *in->at++;
    return 1;
  }
  in->at++;
  if (*in->at == 'u') {
    in->at++;
    return take_code_point(in, &point) ? as_utf8(point, bytes) : 0;
  }
  const char *letter = *in->at != '\0' ? strchr(letters, *in->at) : NULL;
  if (letter == NULL) return 0;
  in->at++;
  bytes[0] = meanings[letter - letters];
  return 1;
}

/* Take a string into `text` of `size` bytes; a longer one is refused, never cut. NULL skips it. */
static bool take_string(reader *in, char *text, size_t size) {
  size_t length = 0;
  if (!take(in, '"')) return false;
  while (*in->at != '"') {
    char bytes[4];
    size_t count = take_character(in, bytes);
    if (count == 0) return false;
    if (text == NULL) continue;
    if (length + count >= size) return false;
    memcpy(text + length, bytes, count);
    length += count;
  }
  in->at++;
  if (text != NULL) text[length] = '\0';
  return true;
}

static bool take_digits(reader *in) {
  const char *start = in->at;
  while (*in->at >= '0' && *in->at <= '9') in->at++;
  return in->at != start;
}

static bool skip_number(reader *in) {
  if (*in->at == '-') in->at++;
  if (*in->at == '0') in->at++;
  else if (!take_digits(in)) return false;
  if (*in->at == '.') {
    in->at++;
    if (!take_digits(in)) return false;
  }
  if (*in->at != 'e' && *in->at != 'E') return true;
  in->at++;
  if (*in->at == '+' || *in->at == '-') in->at++;
  return take_digits(in);
}

static bool skip_value(reader *in, int depth);

static bool skip_members(reader *in, char end, bool has_names, int depth) {
  if (take(in, end)) return true;
  do {
    if (has_names && (!take_string(in, NULL, 0) || !take(in, ':'))) return false;
    if (!skip_value(in, depth - 1)) return false;
  } while (take(in, ','));
  return take(in, end);
}

/* Skip a value of a field that this version does not know. */
static bool skip_value(reader *in, int depth) {
  if (depth == 0) return false;
  skip_space(in);
  switch (*in->at) {
    case '"': return take_string(in, NULL, 0);
    case '{': in->at++; return skip_members(in, '}', true, depth);
    case '[': in->at++; return skip_members(in, ']', false, depth);
    case 't': return take_word(in, "true");
    case 'f': return take_word(in, "false");
    case 'n': return take_word(in, "null");
    default: return skip_number(in);
  }
}

static bool take_field(reader *in, asdic_release *release) {
  char name[64];
  reader start = *in;
  if (!take_string(in, name, sizeof name)) {
    *in = start;
    name[0] = '\0'; /* too long to be known */
    if (!take_string(in, NULL, 0)) return false;
  }
  if (!take(in, ':')) return false;
  struct {
    const char *name;
    char *text;
    size_t size;
  } fields[] = {
      {"manifest", release->manifest, sizeof release->manifest},
      {"version", release->version, sizeof release->version},
      {"folder", release->folder, sizeof release->folder},
      {"cache", release->cache, sizeof release->cache},
      {"error", release->error, sizeof release->error},
  };
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    if (strcmp(name, fields[i].name) != 0) continue;
    skip_space(in);
    fields[i].text[0] = '\0';
    if (take_word(in, "null")) return true;
    return take_string(in, fields[i].text, fields[i].size);
  }
  return skip_value(in, DEPTH_LIMIT);
}

/* Read an answer, all of it; what is no answer leaves nothing behind. */
static bool read_release(const char *line, asdic_release *release) {
  reader in = {line};
  memset(release, 0, sizeof *release);
  bool is_right = take(&in, '{');
  if (is_right && !take(&in, '}')) {
    do is_right = take_field(&in, release);
    while (is_right && take(&in, ','));
    is_right = is_right && take(&in, '}');
  }
  skip_space(&in);
  is_right = is_right && *in.at == '\0';
  if (!is_right) memset(release, 0, sizeof *release);
  return is_right;
}

/* ---- The connection ---- */

/* Wait until the socket is ready; false where the time is over. */
static bool is_ready(const asdic_connection *agent, short events, int64_t deadline_ms) {
  for (;;) {
    int64_t left_ms = deadline_ms - now_ms();
    struct pollfd one = {.fd = agent->socket, .events = events};
    int found = poll(&one, 1, left_ms > 0 ? (int)left_ms : 0);
    if (found > 0) return true;
    if (found == 0 || errno != EINTR) return false;
  }
}

static asdic_status send_all(asdic_connection *agent, const char *from, size_t count,
                             int64_t deadline_ms) {
  while (count > 0) {
    ssize_t sent = send(agent->socket, from, count, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) {
      from += sent;
      count -= (size_t)sent;
    } else if (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
      return fail(agent, ASDIC_GONE, "the agent is gone: %s", strerror(errno));
    } else if (!is_ready(agent, POLLOUT, deadline_ms)) {
      return fail(agent, ASDIC_GONE, "the agent takes nothing for %d ms", agent->timeout_ms);
    }
  }
  return ASDIC_OK;
}

/* Receive one line into agent->line, without its end. */
static asdic_status receive_line(asdic_connection *agent, int64_t deadline_ms) {
  size_t have = 0;
  while (have < sizeof agent->line) {
    if (!is_ready(agent, POLLIN, deadline_ms))
      return fail(agent, ASDIC_GONE, "the agent did not answer within %d ms", agent->timeout_ms);
    ssize_t got = recv(agent->socket, agent->line + have, sizeof agent->line - have, MSG_DONTWAIT);
    if (got == 0) return fail(agent, ASDIC_GONE, "the agent is gone: it hung up");
    if (got < 0) {
      if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) continue;
      return fail(agent, ASDIC_GONE, "the agent is gone: %s", strerror(errno));
    }
    char *end = memchr(agent->line + have, '\n', (size_t)got);
    have += (size_t)got;
    if (end == NULL) continue;
    if (end + 1 != agent->line + have || memchr(agent->line, '\0', have) != NULL)
      return fail(agent, ASDIC_GARBAGE, "what answers is no agent: more than one line of text");
    *end = '\0';
    return ASDIC_OK;
  }
  return fail(agent, ASDIC_GARBAGE, "what answers is no agent: more than %d bytes",
              ASDIC_LINE_BYTES);
}

/* Send what was written to agent->line, and read the answer. */
static asdic_status ask(asdic_connection *agent, writer *out, asdic_release *wanted) {
  int64_t deadline_ms = now_ms() + agent->timeout_ms;
  put(out, "}\n");
  if (!out->fits) return fail(agent, ASDIC_ARGUMENT, "the call is too long");
  if (agent->socket < 0) return fail(agent, ASDIC_GONE, "not connected; call asdic_connect");
  asdic_status status =
      send_all(agent, agent->line, (size_t)(out->at - agent->line), deadline_ms);
  if (status == ASDIC_OK) status = receive_line(agent, deadline_ms);
  if (status != ASDIC_OK) return status;
  if (!read_release(agent->line, wanted))
    return fail(agent, ASDIC_GARBAGE, "what answers is no agent: %.100s", agent->line);
  if (wanted->error[0] != '\0')
    return fail(agent, ASDIC_REFUSED, "the agent answers: %.480s", wanted->error);
  agent->error[0] = '\0';
  return ASDIC_OK;
}

static writer begin(asdic_connection *agent, const char *call) {
  writer out = {agent->line, agent->line + sizeof agent->line, true};
  put(&out, "{\"call\":\"%s\"", call);
  return out;
}

asdic_status asdic_connect(asdic_connection *agent, const char *state_folder, int timeout_ms) {
  memset(agent, 0, sizeof *agent);
  agent->socket = -1;
  agent->timeout_ms = timeout_ms;
  if (state_folder == NULL || timeout_ms <= 0)
    return fail(agent, ASDIC_ARGUMENT, "a state folder and a time above 0 ms are needed");
  int wrote = snprintf(agent->line, sizeof agent->line, "%s/application", state_folder);
  if (wrote < 0 || (size_t)wrote >= sizeof agent->line)
    return fail(agent, ASDIC_ARGUMENT, "the name of the state folder is too long");
  int folder = open(agent->line, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder < 0)
    return fail(agent, ASDIC_GONE, "no agent listens in %.300s: %s", state_folder, strerror(errno));
  /* The kernel takes at most 107 bytes of path: go by the open folder. */
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/agent.sock", folder);
  agent->socket = socket(AF_UNIX, SOCK_STREAM, 0);
  bool connected = agent->socket >= 0 && fcntl(agent->socket, F_SETFD, FD_CLOEXEC) == 0 &&
                   fcntl(agent->socket, F_SETFL, O_NONBLOCK) == 0 &&
                   connect(agent->socket, (struct sockaddr *)&address, sizeof address) == 0;
  int error = errno;
  close(folder);
  if (!connected)
    return fail(agent, ASDIC_GONE, "no agent listens in %.300s: %s", state_folder, strerror(error));
  return ASDIC_OK;
}

asdic_status asdic_current(asdic_connection *agent, asdic_release *wanted) {
  writer out = begin(agent, "current");
  return ask(agent, &out, wanted);
}

asdic_status asdic_busy(asdic_connection *agent, double seconds, asdic_release *wanted) {
  if (!(seconds >= 0.0 && seconds <= SECONDS_LIMIT)) /* NaN is neither */
    return fail(agent, ASDIC_ARGUMENT, "an exam lasts 0 to 1e9 seconds");
  writer out = begin(agent, "busy");
  put(&out, ",\"until_s\":");
  put_number(&out, seconds > 0.0 ? (double)now_ms() / 1000.0 + seconds : 0.0);
  return ask(agent, &out, wanted);
}

asdic_status asdic_loaded(asdic_connection *agent, const asdic_release *loaded,
                          uint64_t inferences, asdic_release *wanted) {
  if (loaded == NULL || loaded->manifest[0] == '\0')
    return fail(agent, ASDIC_ARGUMENT, "a release without a manifest cannot be loaded");
  writer out = begin(agent, "loaded");
  put(&out, ",\"manifest\":");
  put_string(&out, loaded->manifest, sizeof loaded->manifest - 1);
  put(&out, ",\"version\":");
  put_string(&out, loaded->version, sizeof loaded->version - 1);
  put(&out, ",\"inferences\":%" PRIu64, inferences);
  return ask(agent, &out, wanted);
}

asdic_status asdic_health(asdic_connection *agent, const asdic_release *loaded,
                          const asdic_counts *counts, asdic_release *wanted) {
  writer out = begin(agent, "health");
  if (loaded != NULL && loaded->manifest[0] != '\0') {
    put(&out, ",\"manifest\":");
    put_string(&out, loaded->manifest, sizeof loaded->manifest - 1);
  }
  if (counts != NULL) {
    put(&out, ",\"inferences\":%" PRIu64 ",\"errors\":%" PRIu64, counts->inferences,
        counts->errors);
    if (counts->latency_ms_p50 >= 0.0 && counts->latency_ms_p50 <= SECONDS_LIMIT) {
      put(&out, ",\"latency_ms_p50\":");
      put_number(&out, counts->latency_ms_p50);
    }
    if (counts->reason != NULL) {
      put(&out, ",\"reason\":");
      put_string(&out, counts->reason, REASON_BYTES);
    }
    if (counts->still != NULL) {
      put(&out, ",\"still\":");
      put_string(&out, counts->still, sizeof loaded->manifest - 1);
    }
  }
  return ask(agent, &out, wanted);
}

void asdic_close(asdic_connection *agent) {
  if (agent->socket >= 0) close(agent->socket);
  agent->socket = -1;
}

const char *asdic_text(asdic_status status) {
  switch (status) {
    case ASDIC_OK: return "ok";
    case ASDIC_GONE: return "gone";
    case ASDIC_GARBAGE: return "garbage";
    case ASDIC_REFUSED: return "refused";
    case ASDIC_ARGUMENT: return "argument";
  }
  return "unknown";
}
