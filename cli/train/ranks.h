// What the commands of viaduct-train do as ranks of a run: they join the others, and only the first one speaks.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "cli/progress_display.h"
#include "viaduct/nn/agree.h"
#include "viaduct/parallel/world.h"

namespace viaduct::cli {

struct RankOptions {
  topology::Parallelism sizes;
  bool cpu = false;  // even where there are GPUs
};

/// This process among the ranks of the run.
class Ranks {
 public:
  /// Joins the others; UserError when the layout does not fill the run's processes.
  explicit Ranks(const RankOptions& options);

  const parallel::Mesh& mesh() const { return mesh_; }
  c10::Device device() const { return world_.device(); }
  bool first() const { return world_.rank() == 0; }
  /// The first rank's display; null on the others.
  Progress* progress() { return progress_.get(); }
  /// A line on stderr, from the first rank.
  void say(const std::string& line) const;
  /// What `read` gives on the first rank, on all.
  std::optional<std::string> shared_line(const std::function<std::optional<std::string>()>& read) const;
  /// The first rank's exit code, on all.
  int shared_code(int code) const;

 private:
  parallel::ProcessWorld world_;
  parallel::Mesh mesh_;
  std::unique_ptr<ProgressDisplay> progress_;
};

/// Runs a command on this rank. What another rank failed with only the first one repeats.
int run_ranks(const RankOptions& options, const std::function<int(Ranks&)>& command);

}  // namespace viaduct::cli
