// The workload of bench/ring.py in SimGrid's S4U: three actors a rank (gathers, scatters, compute).
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

  std::vector<sg::SemaphorePtr> may_gather(n), may_scatter(n), gathered(n), received(n), gather_step(n),
      scatter_step(n);
  for (int r = 0; r < n; r++) {
    may_gather[r]   = sg::Semaphore::create(2);
    may_scatter[r]  = sg::Semaphore::create(0);
    gathered[r]     = sg::Semaphore::create(0);
    received[r]     = sg::Semaphore::create(0);
    gather_step[r]  = sg::Semaphore::create(0);
    scatter_step[r] = sg::Semaphore::create(0);
  }
  // Step s starts when the rank's own and its predecessor's step s-1 are done.
  auto ring = [&](int r, int passes, std::vector<sg::SemaphorePtr>& may, std::vector<sg::SemaphorePtr>& stepped,
                  bool gather) {
    const int next = (r + 1) % n;
    for (int pass = 0; pass < passes; pass++) {
      may[r]->acquire();
      for (int s = 0; s < n_steps; s++) {
        sg::Comm::sendto_async(host[r], host[next], static_cast<uint64_t>(chunk))->wait();
        if (steps) {
          stepped[next]->release();
          stepped[r]->acquire();
        }
      }
      if (gather) {
        gathered[r]->release();
        if (not steps)
          received[next]->release();
      }
    }
  };
  for (int r = 0; r < n; r++) {
    sg::Actor::create("gather", host[r], [&, r] { ring(r, 2 * layers, may_gather, gather_step, true); });
    sg::Actor::create("scatter", host[r], [&, r] { ring(r, layers, may_scatter, scatter_step, false); });
    sg::Actor::create("compute", host[r], [&, r] {
      for (int pass = 0; pass < 2 * layers; pass++) {
        gathered[r]->acquire();
        if (not steps)
          received[r]->acquire();
        sg::this_actor::sleep_for(compute_seconds(r, pass, layers, jitter));
        may_gather[r]->release();
        if (pass >= layers)
          may_scatter[r]->release();
      }
    });
  }
  const std::clock_t before = std::clock();
  engine.run();
  const double seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  std::printf("%.15g %.6f %.1f\n", sg::Engine::get_clock(), seconds, usage.ru_maxrss / 1024.0);
  return 0;
}
