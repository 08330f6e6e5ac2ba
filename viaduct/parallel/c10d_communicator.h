// The communicator over c10d: Gloo on the CPU, NCCL on CUDA, the same everywhere else.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "viaduct/parallel/backend.h"
#include "viaduct/parallel/group.h"
#include "viaduct/parallel/rank_watch.h"

namespace viaduct::parallel {

/// The connections among some ranks. Groups of the same ranks share them.
class Connections {
 public:
  /// Collective among `ranks` (global, ascending), of which this process is number `rank`. `store` is for them
  /// alone; `device` is where tensors must be. RankError when a rank does not come.
  Connections(const BackendFactory& factory, c10::intrusive_ptr<c10d::Store> store, std::vector<int> ranks,
              int rank, at::Device device, std::shared_ptr<RankWatch> watch);
  /// Collective too, unless a rank failed.
  ~Connections();
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;

  /// The global ranks, this process' number among them and how many there are, where tensors must be, and who
  /// watches.
  const std::vector<int>& ranks() const { return ranks_; }
  int rank() const { return rank_; }
  int size() const { return static_cast<int>(ranks_.size()); }
  at::Device device() const { return device_; }
  RankWatch& watch() { return *watch_; }
  /// What carries the collectives.
  c10d::Backend& backend() { return *backend_; }

  /// What carries tensors from one rank to another, and what the other end is called there. Gloo uses one backend
  /// for all and tells them apart by the tag. NCCL does one thing after the other in a backend: a tensor that waits
  /// for its receiver would hold up one that comes the other way, so each line is a backend of its own, made at
  /// first use.
  struct Line {
    c10d::Backend& backend;
    int peer;
    int tag;
  };
  /// The line from member `from` to member `to`, one of which this process is.
  Line line(int from, int to, int tag);

 private:
  void keep_for_abort(const c10::intrusive_ptr<c10d::Backend>& backend);

  const BackendFactory factory_;
  const c10::intrusive_ptr<c10d::Store> store_;
  const std::vector<int> ranks_;
  const int rank_;
  const at::Device device_;
  const std::shared_ptr<RankWatch> watch_;
  c10::intrusive_ptr<c10d::Backend> backend_;
  std::map<std::tuple<int, int, int>, c10::intrusive_ptr<c10d::Backend>> lines_;
};

/// The communicator of group `name`. Operations that Gloo lacks are made of those that it has: averages, and a
/// reduce-scatter that moves each row once and adds in fp32; what only moves tensors moves bytes, so every type
/// can.
std::shared_ptr<Communicator> c10d_communicator(std::string name, std::shared_ptr<Connections> connections);

}  // namespace viaduct::parallel
