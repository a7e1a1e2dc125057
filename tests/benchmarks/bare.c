/* The bare cost of each piece of work, as a small C program pays it: the measure of the benchmarks.
 *
 * Reads orders from standard input and answers each with a line of microseconds, two numbers a repetition: of the
 * clock on the wall, and of this process's processor time.
 *   dump REPEAT                        all classes of the device, read and decoded field by field
 *   turn CHANGES FILE SYNC REPEAT      dump, add up what each class gained, CHANGES changes, one file written, renamed,
 *                                      and where SYNC is 1 made durable before
 *   write CHANGES REPEAT               CHANGES changes, at most 1000 a message train, the last of a train acknowledged
 *   render FAMILIES LANES PREFIX REPEAT  FAMILIES x LANES lines: PREFIX bytes of name and labels, a number, a line feed
 * Changes go to the spare classes 1:100, 1:101 ... which belong to nobody, and alternate between two ceilings.
 * Layouts: linux/netlink.h, linux/rtnetlink.h, linux/pkt_sched.h, linux/gen_stats.h.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/gen_stats.h>
#include <linux/netlink.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { READ_BYTES = 32768, TRAIN = 1000, FIRST_SPARE = 0x100, MOST_CLASSES = 0x10000 };

struct class {
  uint32_t handle, parent, rate, ceiling, packets, dropped, overlimits, backlog;
  uint64_t bytes;
};

struct change {
  struct nlmsghdr head;
  struct tcmsg about;
  struct rtattr kind;
  char htb[4];
  struct rtattr options, parameters;
  struct tc_htb_opt htb_options;
};

static int netlink, interface;
static uint32_t sequence;
static char buffer[READ_BYTES];
static struct class now[MOST_CLASSES];
static uint64_t seen[MOST_CLASSES], account[MOST_CLASSES], packed[MOST_CLASSES * 4];
static int count;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double microseconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void open_netlink(void) {
  struct sockaddr_nl address = {.nl_family = AF_NETLINK};
  int one = 1, bytes = 4 << 20;
  netlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
  if (netlink < 0 || bind(netlink, (struct sockaddr *)&address, sizeof address)) fail("netlink");
  setsockopt(netlink, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof one);
  setsockopt(netlink, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes);
}

static void take_class(struct nlmsghdr *head) {
  struct tcmsg *about = NLMSG_DATA(head);
  struct class *one = &now[count++];
  int left = head->nlmsg_len - NLMSG_LENGTH(sizeof *about);
  one->handle = about->tcm_handle;
  one->parent = about->tcm_parent;
  for (struct rtattr *a = TCA_RTA(about); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
    int kind = a->rta_type & NLA_TYPE_MASK, inside = RTA_PAYLOAD(a);
    if (kind != TCA_OPTIONS && kind != TCA_STATS2) continue;
    for (struct rtattr *b = RTA_DATA(a); RTA_OK(b, inside); b = RTA_NEXT(b, inside)) {
      if (kind == TCA_OPTIONS && b->rta_type == TCA_HTB_PARMS) {
        struct tc_htb_opt *options = RTA_DATA(b);
        one->rate = options->rate.rate;
        one->ceiling = options->ceil.rate;
      } else if (kind == TCA_STATS2 && b->rta_type == TCA_STATS_BASIC) {
        struct gnet_stats_basic *basic = RTA_DATA(b);
        memcpy(&one->bytes, &basic->bytes, sizeof one->bytes);
        one->packets = basic->packets;
      } else if (kind == TCA_STATS2 && b->rta_type == TCA_STATS_QUEUE) {
        struct gnet_stats_queue *queue = RTA_DATA(b);
        one->dropped = queue->drops;
        one->overlimits = queue->overlimits;
        one->backlog = queue->backlog;
      }
    }
  }
}

static void dump(void) {
  struct {
    struct nlmsghdr head;
    struct tcmsg about;
  } question = {
      {sizeof question, RTM_GETTCLASS, NLM_F_REQUEST | NLM_F_DUMP, ++sequence, 0},
      {.tcm_ifindex = interface, .tcm_parent = 1 << 16},
  };
  count = 0;
  if (send(netlink, &question, sizeof question, 0) < 0) fail("send");
  for (;;) {
    int size = recv(netlink, buffer, sizeof buffer, 0);
    if (size < 0) fail("recv");
    for (struct nlmsghdr *head = (void *)buffer; NLMSG_OK(head, size); head = NLMSG_NEXT(head, size)) {
      if (head->nlmsg_type == NLMSG_DONE) return;
      if (head->nlmsg_type == NLMSG_ERROR) exit(1);
      take_class(head);
    }
  }
}

static void add_up(void) {
  for (int i = 0; i < count; i++) {
    uint32_t minor = now[i].handle & 0xffff;
    account[minor] += now[i].bytes >= seen[minor] ? now[i].bytes - seen[minor] : now[i].bytes;
    seen[minor] = now[i].bytes;
    packed[4 * i] = now[i].handle;
    packed[4 * i + 1] = account[minor];
    packed[4 * i + 2] = now[i].bytes;
    packed[4 * i + 3] = now[i].packets;
  }
}

static void change(int changes, int odd) {
  static struct change train[TRAIN];
  for (int done = 0; done < changes;) {
    int size = changes - done < TRAIN ? changes - done : TRAIN;
    for (int i = 0; i < size; i++) {
      uint32_t ceiling = odd ? 1375000 : 1250000;
      struct change *one = &train[i];
      memset(one, 0, sizeof *one);
      one->head = (struct nlmsghdr){sizeof *one, RTM_NEWTCLASS, NLM_F_REQUEST, ++sequence, 0};
      one->about.tcm_ifindex = interface;
      one->about.tcm_handle = 1 << 16 | (FIRST_SPARE + done + i);
      one->kind = (struct rtattr){8, TCA_KIND};
      memcpy(one->htb, "htb", 4);
      one->options = (struct rtattr){sizeof(struct rtattr) * 2 + sizeof(struct tc_htb_opt), TCA_OPTIONS};
      one->parameters = (struct rtattr){sizeof(struct rtattr) + sizeof(struct tc_htb_opt), TCA_HTB_PARMS};
      one->htb_options.rate = (struct tc_ratespec){.linklayer = 1, .rate = 125000};
      one->htb_options.ceil = (struct tc_ratespec){.linklayer = 1, .rate = ceiling};
      one->htb_options.buffer = 200000;
      one->htb_options.cbuffer = 15625;
      one->htb_options.quantum = 1514;
    }
    train[size - 1].head.nlmsg_flags |= NLM_F_ACK;
    if (send(netlink, train, size * sizeof *train, 0) < 0) fail("send");
    for (;;) {
      if (recv(netlink, buffer, sizeof buffer, 0) < 0) fail("recv");
      struct nlmsghdr *head = (void *)buffer;
      int code = *(int *)NLMSG_DATA(head);
      if (head->nlmsg_type == NLMSG_ERROR && code) {
        errno = -code;
        fail("change");
      }
      if (head->nlmsg_seq == sequence) break;
    }
    done += size;
  }
}

static void keep(const char *name, int sync) {
  char beside[512];
  snprintf(beside, sizeof beside, "%s.new", name);
  FILE *file = fopen(beside, "w");
  if (!file) fail(beside);
  fwrite(packed, 32, count, file);
  if (sync && (fflush(file) || fsync(fileno(file)))) fail(name);
  fclose(file);
  if (rename(beside, name)) fail(name);
}

static char *written(char *at, uint64_t value) {
  char digits[24];
  int length = 0;
  do digits[length++] = '0' + value % 10;
  while (value /= 10);
  while (length) *at++ = digits[--length];
  return at;
}

static void render(int families, int lanes, int prefix, char *text, const char *names) {
  for (int family = 0; family < families; family++)
    for (int lane = 0; lane < lanes; lane++) {
      memcpy(text, names + (size_t)(family * lanes + lane) * prefix, prefix);
      text = written(text + prefix, account[lane & 0xffff] + 1234567890 + lane);
      *text++ = '\n';
    }
}

int main(int arguments, char **argument) {
  char order[64], file[400], *text = NULL, *names = NULL;
  int a, b, c, repeat;
  if (arguments != 2 || !(interface = if_nametoindex(argument[1]))) return 2;
  open_netlink();
  while (scanf("%63s", order) == 1) {
    int read = 0;
    if (!strcmp(order, "dump")) read = scanf("%d", &repeat) == 1;
    if (!strcmp(order, "write")) read = scanf("%d %d", &a, &repeat) == 2;
    if (!strcmp(order, "turn")) read = scanf("%d %399s %d %d", &a, file, &b, &repeat) == 4;
    if (!strcmp(order, "render")) {
      read = scanf("%d %d %d %d", &a, &b, &c, &repeat) == 4;
      size_t bytes = (size_t)a * b * (c + 24);
      text = realloc(text, bytes);
      names = realloc(names, bytes);
      memset(text, 1, bytes);
      memset(names, 'a', bytes);
    }
    if (!read) return 2;
    for (int i = 0; i < repeat; i++) {
      double start = microseconds(CLOCK_MONOTONIC), busy = microseconds(CLOCK_PROCESS_CPUTIME_ID);
      if (*order == 'd') dump();
      if (*order == 'w') change(a, i & 1);
      if (*order == 'r') render(a, b, c, text, names);
      if (*order == 't') {
        dump();
        add_up();
        change(a, i & 1);
        keep(file, b);
      }
      double wall = microseconds(CLOCK_MONOTONIC) - start;
      printf("%.1f %.1f ", wall, microseconds(CLOCK_PROCESS_CPUTIME_ID) - busy);
    }
    puts("");
    fflush(stdout);
  }
  return 0;
}
