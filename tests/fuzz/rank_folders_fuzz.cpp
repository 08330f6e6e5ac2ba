// Megatron-LM's torch format: the bytes of a rank's model_optim_rng.pt, alone and as both ranks of a pair.
#include <unistd.h>

#include <cstddef>
#include <cstdint>

#include "viaduct/bridge/conversion.h"
#include "viaduct/core/error.h"

namespace {

// One folder for the whole run, in memory where that is possible.
class Folder {
 public:
  explicit Folder(int ranks) : ranks_(ranks) {
    const viaduct::Path memory = "/dev/shm";
    const bool there = std::filesystem::is_directory(memory) && ::access(memory.c_str(), W_OK) == 0;
    path_ = (there ? memory : std::filesystem::temp_directory_path()) /
            ("viaduct-fuzz-ranks-" + std::to_string(ranks) + "-" + std::to_string(::getpid()));
    for (int rank = 0; rank < ranks; ++rank) std::filesystem::create_directories(file(rank).parent_path());
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  const viaduct::Path& path() const { return path_; }
  viaduct::Path file(int rank) const {
    return path_ / "iter_0000001" / ("mp_rank_0" + std::to_string(rank)) / "model_optim_rng.pt";
  }
  void write(const uint8_t* data, size_t size) const {
    for (int rank = 0; rank < ranks_; ++rank) {
      const viaduct::File out = viaduct::File::open(file(rank), viaduct::File::Mode::kWrite);
      out.resize(0);
      out.write(0, std::as_bytes(std::span(data, size)));
    }
  }

 private:
  int ranks_;
  viaduct::Path path_;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder one(1), two(2);
  for (const Folder* folder : {&one, &two}) {
    folder->write(data, size);
    try {
      const auto checkpoint = viaduct::bridge::open_checkpoint(folder->path());
      const auto plan = viaduct::bridge::plan_export(*checkpoint, folder->path() / "out", {});
      VIADUCT_CHECK(plan.proof.holds());
    } catch (const viaduct::UserError&) {  // an InternalError is a finding
    }
  }
  return 0;
}
