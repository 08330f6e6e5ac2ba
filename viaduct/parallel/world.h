// ProcessWorld: the processes of a run, which meet in a store, and the layouts that they form.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <functional>
#include <memory>
#include <string>

#include "viaduct/parallel/launch.h"
#include "viaduct/parallel/mesh.h"
#include "viaduct/parallel/rank_watch.h"
#include "viaduct/topology/parallelism.h"
#include "viaduct/topology/rank_grid.h"

namespace viaduct::parallel {

/// Where tensors are.
enum class DeviceChoice { kAuto, kCpu, kCuda };

/// How a process joins the others.
struct WorldOptions {
  /// kAuto: the CUDA device of the local rank where there are any, else the CPU.
  DeviceChoice device = DeviceChoice::kAuto;
  /// How long ranks wait for each other, at the start and in an operation (upstream's distributed_timeout_minutes).
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  WatchTimes watch;
  /// On CUDA only: called by another thread, with the reason, when a rank is gone and this one may wait for it on
  /// the device. Then NCCL's operations are given up, upon which NCCL's own watchdog may end the process before an
  /// error is thrown: what prints errors prints the reason here.
  std::function<void(const std::string& reason)> on_failure;
  /// For the launcher's variables.
  Environment environment = environment_variable;
};

/// This process among the others of the run. One a process, for as long as it communicates.
class ProcessWorld {
 public:
  /// Reads the launcher's variables, chooses the device (and makes it the current one) and waits for all other
  /// ranks. UserError for variables or devices that do not fit, RankError for ranks that do not come.
  explicit ProcessWorld(const WorldOptions& options = {});
  /// close(); while an exception is on its way (or after fail()) it only leaves word that this rank failed.
  ~ProcessWorld();
  ProcessWorld(const ProcessWorld&) = delete;
  ProcessWorld& operator=(const ProcessWorld&) = delete;

  /// What the launcher said, this process' rank among how many, and the device of its tensors.
  const Launch& launch() const { return launch_; }
  int rank() const { return launch_.rank; }
  int size() const { return launch_.world_size; }
  at::Device device() const { return device_; }

  /// The layout's groups. Every rank calls it with the same arguments. `sizes.dp` is what fills the world; another
  /// value than 1 must be that one. UserError with the numbers, before any group is made, when the sizes do not fit
  /// the number of ranks.
  Mesh mesh(const topology::Parallelism& sizes, topology::RankOrder order = topology::RankOrder::kPipelineLast);
  /// The same group with connections of its own: what it exchanges may go on beside everything else, in another
  /// order on every rank. Collective in the whole world, each rank with the group of one kind that it is in.
  Group beside(const Group& group);

  /// Tells the others why this rank fails; their errors then quote it. For what is not thrown through the
  /// destructor.
  void fail(const std::string& reason);
  /// This rank's work is over. The rank that serves the store waits for the others. RankError when they do not end.
  void close();

 private:
  class Store;
  std::shared_ptr<class Connections> connect(const std::vector<int>& ranks, const std::string& prefix);

  const WorldOptions options_;
  const Launch launch_;
  at::Device device_;
  int exceptions_;  // on their way when the world was made
  int meshes_ = 0;
  int beside_ = 0;  // groups
  bool closed_ = false;
  std::unique_ptr<Store> store_;
  std::shared_ptr<RankWatch> watch_;
};

}  // namespace viaduct::parallel
