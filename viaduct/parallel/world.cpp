#include "viaduct/parallel/world.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <algorithm>
#include <exception>
#include <map>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "viaduct/core/error.h"
#include "viaduct/parallel/c10d_communicator.h"

namespace viaduct::parallel {

namespace {

at::Device choose_device(DeviceChoice choice, const Launch& launch) {
  const int devices = choice == DeviceChoice::kCpu ? 0 : cuda_devices();
  if (choice == DeviceChoice::kCpu || (choice == DeviceChoice::kAuto && devices == 0)) return at::Device(at::kCPU);
  VIADUCT_USER_CHECK(devices > 0,
                     "rank {} was told to use CUDA, but this process sees no CUDA device: look at the "
                     "driver and at CUDA_VISIBLE_DEVICES, or run on the CPU",
                     launch.rank);
  VIADUCT_USER_CHECK(
      launch.local_rank < devices,
      "rank {} is process {} of its machine, which has {} CUDA devices: start at most that many processes "
      "on a machine, or run on the CPU",
      launch.rank, launch.local_rank, devices);
  const at::Device device(at::kCUDA, static_cast<c10::DeviceIndex>(launch.local_rank));
  c10::impl::getDeviceGuardImpl(at::kCUDA)->setDevice(device);
  return device;
}

}  // namespace

// The store and who serves it.
class ProcessWorld::Store {
 public:
  Store(const Launch& launch, std::chrono::milliseconds timeout)
      : serves_(!launch.launcher_hosts_store && launch.rank == 0),
        host_(fmt::format("{} at {}:{}", launch.launcher_hosts_store ? "torchrun's agent" : "rank 0",
                          launch.master_address, launch.master_port)) {
    c10d::TCPStoreOptions options;
    options.port = static_cast<uint16_t>(launch.master_port);
    options.isServer = serves_;
    options.waitWorkers = false;
    options.timeout = timeout;
    try {
      auto store = c10::make_intrusive<c10d::TCPStore>(launch.master_address, options);
      store_ = c10::make_intrusive<c10d::PrefixStore>(fmt::format("viaduct/{}", launch.attempt), std::move(store));
    } catch (const c10::Error& error) {
      throw RankError(
          serves_ ? fmt::format("rank 0 cannot serve the store at port {} ({}): set MASTER_PORT to a free port",
                                launch.master_port, first_line(error))
                  : fmt::format("rank {} found no store of {} ({}): look whether that process runs, and whether "
                                "MASTER_ADDR and MASTER_PORT are the same for all",
                                launch.rank, host_, first_line(error)));
    }
  }

  bool serves() const { return serves_; }
  const std::string& host() const { return host_; }
  c10::intrusive_ptr<c10d::Store> part(const std::string& prefix) {
    return c10::make_intrusive<c10d::PrefixStore>(prefix, store_);
  }
  // With a connection of its own.
  c10::intrusive_ptr<c10d::Store> another() { return store_->clone(); }

 private:
  bool serves_;
  std::string host_;
  c10::intrusive_ptr<c10d::Store> store_;
};

ProcessWorld::ProcessWorld(const WorldOptions& options)
    : options_(options),
      launch_(read_launch(options.environment)),
      device_(choose_device(options.device, launch_)),
      exceptions_(std::uncaught_exceptions()) {
  if (launch_.world_size == 1) return;
  store_ = std::make_unique<Store>(launch_, options.timeout);
  watch_ = std::make_shared<RankWatch>(store_->another(), launch_.rank, launch_.world_size, store_->host(),
                                       options.watch);
  if (options.on_failure && !device_.is_cpu()) watch_->on_failure(options.on_failure);
  watch_->meet(options.timeout);
}

ProcessWorld::~ProcessWorld() {
  if (closed_) return;
  if (std::uncaught_exceptions() > exceptions_) {
    fail("an error that its own output shows");
    return;
  }
  try {
    close();
  } catch (const RankError&) {
    // Others did not end, or the store went before this rank did: this rank's own work is done all the same.
  }
}

void ProcessWorld::fail(const std::string& reason) {
  if (closed_ || !watch_) return;
  closed_ = true;
  try {
    watch_->end(reason);
    if (store_->serves()) watch_->wait_for_ends(2 * options_.watch.suspect);
  } catch (const c10::Error&) {
    // The store is gone with the rank or the agent that served it: nobody is left who could be told.
  }
}

void ProcessWorld::close() {
  if (closed_ || !watch_) return;
  closed_ = true;
  try {
    watch_->end("");
    if (store_->serves() && !watch_->wait_for_ends(options_.timeout))
      throw RankError(fmt::format("rank {} ended, but others still work after {} s", launch_.rank,
                                  std::chrono::duration<double>(options_.timeout).count()));
  } catch (const c10::Error& error) {
    throw RankError(fmt::format("rank {} ended, but the store of {} is gone ({})", launch_.rank, store_->host(),
                                first_line(error)));
  }
}

std::shared_ptr<Connections> ProcessWorld::connect(const std::vector<int>& ranks, const std::string& prefix) {
  const BackendFactory factory = device_.is_cpu() ? gloo_backends(options_.timeout, launch_.one_machine())
                                                  : nccl_backends(options_.timeout, device_);
  const auto here = std::lower_bound(ranks.begin(), ranks.end(), launch_.rank) - ranks.begin();
  return std::make_shared<Connections>(factory, store_->part(prefix), ranks, static_cast<int>(here), device_,
                                       watch_);
}

Group ProcessWorld::beside(const Group& group) {
  const std::string prefix = fmt::format("beside{}", beside_++);
  if (group.alone()) return group;
  const std::vector<int>& ranks = group.global_ranks();
  const auto connections = connect(ranks, fmt::format("{}/{}/{}", prefix, group.name(), ranks.front()));
  return Group(group.name(), ranks, connections->rank(), c10d_communicator(group.name(), connections));
}

Mesh ProcessWorld::mesh(const topology::Parallelism& sizes, topology::RankOrder order) {
  const topology::Parallelism filled = sizes.with_world_size(size());
  VIADUCT_USER_CHECK(
      sizes.dp == 1 || sizes.dp == filled.dp,
      "data_parallel_size is {}, but {} ranks with tensor_model_parallel_size {}, context_parallel_size {} "
      "and pipeline_model_parallel_size {} make it {}: leave it out or start {} ranks",
      sizes.dp, size(), sizes.tp, sizes.cp, sizes.pp, filled.dp, sizes.world_size());
  const topology::RankGrid grid(filled, order);

  // Groups of the same ranks share their connections. All ranks go through the kinds in this order, and a rank is
  // in one group of each: nobody waits for a group that another comes to only later.
  const std::string prefix = fmt::format("mesh{}", meshes_++);
  std::map<std::vector<int>, std::shared_ptr<Connections>> connections;
  const auto group = [&](const char* name, std::vector<int> ranks) {
    if (ranks.size() == 1) return Group(name, ranks, 0, nullptr);
    std::shared_ptr<Connections>& shared = connections[ranks];
    if (!shared) shared = connect(ranks, fmt::format("{}/{}/{}", prefix, name, ranks.front()));
    const int here = shared->rank();
    return Group(name, std::move(ranks), here, c10d_communicator(name, shared));
  };
  return Mesh(filled, grid, rank(), group);
}

}  // namespace viaduct::parallel
