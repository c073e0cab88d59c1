// The workload of bench/ring.py in SimGrid's S4U.
//
//   g++ -O2 -std=c++17 ring.cpp -lsimgrid -o ring
//   ./ring RANKS LAYERS JITTER steps|flows
//
// prints: simulated seconds, CPU seconds of the simulation alone, peak resident MiB.
// Max-min sharing as ours: CM02, no cross traffic, no TCP window.

#include <simgrid/s4u.hpp>
#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <unordered_map>
#include <vector>

namespace sg = simgrid::s4u;

static double compute_seconds(uint64_t rank, uint64_t pass, uint64_t layers, double jitter)
{
  const bool backward = pass >= layers;
  uint64_t h = ((rank * 2654435761u) & 0xFFFFFFFF) ^ ((pass * 40503 + (backward ? 97 : 0)) & 0xFFFFFFFF);
  h ^= h >> 15;
  h = (h * 2246822519u) & 0xFFFFFFFF;
  h ^= h >> 13;
  return (backward ? 20e-3 : 10e-3) * (1 + jitter * static_cast<double>(h & 0xFFFF) / 65536.0);
}

enum class Kind { gather, scatter, compute };
struct Tag {
  Kind kind;
  int rank;
  sg::ActivityPtr keep;
};
struct Ring {
  int done  = 0; // steps, over all passes
  bool busy = false;
};

int main(int argc, char** argv)
{
  sg::Engine engine(&argc, argv);
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s RANKS LAYERS JITTER steps|flows\n", argv[0]);
    return 2;
  }
  const int n          = std::atoi(argv[1]);
  const int layers     = std::atoi(argv[2]);
  const double jitter  = std::atof(argv[3]);
  const bool steps     = std::string(argv[4]) == "steps";
  const double chunk   = 1.7e9 / n * (steps ? 1 : n - 1);
  const int n_steps    = steps ? n - 1 : 1;
  sg::Engine::set_config("network/model:CM02");
  sg::Engine::set_config("network/crosstraffic:0");
  sg::Engine::set_config("network/TCP-gamma:0");

  auto* zone = sg::create_full_zone("cluster");
  std::vector<sg::Host*> host(n);
  std::vector<sg::Link*> out(n), in(n), nic_out(n), nic_in(n);
  for (int r = 0; r < n; r++) {
    const auto id = std::to_string(r);
    host[r]       = zone->create_host("rank" + id, 1e9);
    out[r]        = zone->create_link("out" + id, 300e9)->set_latency(1e-6);
    in[r]         = zone->create_link("in" + id, 300e9)->set_latency(1e-6);
    nic_out[r]    = zone->create_link("nic_out" + id, 25e9)->set_latency(2e-6);
    nic_in[r]     = zone->create_link("nic_in" + id, 25e9)->set_latency(2e-6);
  }
  for (int r = 0; r < n; r++) {
    const int next  = (r + 1) % n;
    const bool same = r / 8 == next / 8;
    std::vector<sg::LinkInRoute> route{sg::LinkInRoute(same ? out[r] : nic_out[r]),
                                       sg::LinkInRoute(same ? in[next] : nic_in[next])};
    zone->add_route(host[r]->get_netpoint(), host[next]->get_netpoint(), nullptr, nullptr, route, false);
  }
  zone->seal();

  const int passes = 2 * layers;
  std::vector<Ring> gather(n), scatter(n);
  std::vector<int> computed(n, 0);
  std::vector<char> computing(n, 0);
  std::unordered_map<const sg::Activity*, Tag> running;
  auto try_move = [&](Kind kind, int r) {
    auto& rings     = kind == Kind::gather ? gather : scatter;
    Ring& mine      = rings[r];
    const int pass  = mine.done / n_steps;
    const int needs = kind == Kind::gather ? pass - 1 : layers + pass + 1; // computed before this pass
    if (mine.busy || pass >= (kind == Kind::gather ? passes : layers) || computed[r] < needs)
      return;
    // Step s starts when the rank's own and its predecessor's step s-1 are done.
    if (steps && rings[(r + n - 1) % n].done < mine.done)
      return;
    mine.busy = true;
    auto comm = sg::Comm::sendto_init(host[r], host[(r + 1) % n]);
    comm->set_payload_size(static_cast<uint64_t>(chunk));
    running[comm.get()] = {kind, r, comm};
    comm->vetoable_start();
  };
  auto try_compute = [&](int r) {
    const int needs = (computed[r] + 1) * n_steps;
    if (computing[r] || computed[r] >= passes || gather[r].done < needs || gather[(r + n - 1) % n].done < needs)
      return;
    computing[r] = 1;
    auto exec    = sg::Exec::init();
    exec->set_flops_amount(compute_seconds(r, computed[r], layers, jitter) * 1e9)->set_host(host[r]);
    running[exec.get()] = {Kind::compute, r, exec};
    exec->vetoable_start();
  };
  // No actors: every end starts what it allows, which is faster than actors that wait.
  sg::Activity::on_completion_cb([&](const sg::Activity& activity) {
    const auto found    = running.find(&activity);
    const auto [kind, r, keep] = found->second;
    running.erase(found);
    const int next = (r + 1) % n;
    if (kind == Kind::compute) {
      computing[r] = 0;
      computed[r]++;
      try_compute(r);
      try_move(Kind::gather, r);
      try_move(Kind::scatter, r);
      return;
    }
    Ring& mine = (kind == Kind::gather ? gather : scatter)[r];
    mine.busy  = false;
    mine.done++;
    try_move(kind, r);
    if (steps)
      try_move(kind, next);
    if (kind == Kind::gather) {
      try_compute(r);
      try_compute(next);
    }
  });
  for (int r = 0; r < n; r++)
    try_move(Kind::gather, r);
  const std::clock_t before = std::clock();
  engine.run();
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("%.15g %.6f %.1f\n", sg::Engine::get_clock(), seconds, usage.ru_maxrss / 1024.0);
  return 0;
}
