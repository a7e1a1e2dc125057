/* The same load of small datagrams, again and again: what a packet costs its sender.
 *
 * Reads orders from standard input and answers each with a line of nanoseconds a packet: of the clock on the wall, and
 * of this process's processor time, in which the kernel's way to the device is.
 *   COUNT UID MARK SOURCE STRIDE SPREAD
 * sends COUNT datagrams as a user, with a firewall mark (0: none), from the SPREAD addresses SOURCE, SOURCE + STRIDE ...
 * in turn (numbers, host order). The socket is opened for each order, in the control group that the process is then in.
 * Its argument is where to. Addresses need not be this host's (IP_TRANSPARENT).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { TRAIN = 64, PAYLOAD_BYTES = 18 };

static char payload[PAYLOAD_BYTES];
static struct iovec part = {payload, PAYLOAD_BYTES};
static struct mmsghdr train[TRAIN];
static char controls[TRAIN][CMSG_SPACE(sizeof(struct in_pktinfo))];

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static double nanoseconds(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

static int open_as(uint32_t uid, uint32_t mark) {
  int one = 1, bytes = 4 << 20;
  setfsuid(uid);
  int sender = socket(AF_INET, SOCK_DGRAM, 0);
  setfsuid(0);
  if (sender < 0 || setsockopt(sender, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof one)) fail("socket");
  setsockopt(sender, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
  if (mark && setsockopt(sender, SOL_SOCKET, SO_MARK, &mark, sizeof mark)) fail("mark");
  return sender;
}

static void send_all(int sender, uint32_t count, uint32_t source, uint32_t stride, uint32_t spread) {
  for (uint32_t sent = 0; sent < count;) {
    for (int at = 0; at < TRAIN; at++) {
      struct in_pktinfo *about = (struct in_pktinfo *)CMSG_DATA((struct cmsghdr *)controls[at]);
      about->ipi_spec_dst.s_addr = htonl(source + (sent + at) % spread * stride);
    }
    int passed = sendmmsg(sender, train, TRAIN, 0);
    if (passed < 0) fail("sendmmsg");
    sent += passed;
  }
}

int main(int argc, char **argv) {
  struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
  uint32_t count, uid, mark, source, stride, spread;
  if (argc != 2 || !inet_aton(argv[1], &to.sin_addr)) return 2;
  for (int at = 0; at < TRAIN; at++) {
    struct cmsghdr *head = (struct cmsghdr *)controls[at];
    *head = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
    train[at].msg_hdr = (struct msghdr){
        .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &part, .msg_iovlen = 1,
        .msg_control = controls[at], .msg_controllen = sizeof controls[at]};
  }
  while (scanf("%u %u %u %u %u %u", &count, &uid, &mark, &source, &stride, &spread) == 6) {
    int sender = open_as(uid, mark);
    double wall = nanoseconds(CLOCK_MONOTONIC), busy = nanoseconds(CLOCK_PROCESS_CPUTIME_ID);
    send_all(sender, count, source, stride, spread);
    wall = nanoseconds(CLOCK_MONOTONIC) - wall, busy = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) - busy;
    close(sender);
    printf("%.1f %.1f\n", wall / count, busy / count);
    fflush(stdout);
  }
  return 0;
}
