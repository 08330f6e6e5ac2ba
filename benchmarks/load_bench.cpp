// Loading a model into live tensors against reading its files: load_bench MODEL [TIMES]. Prints the best of each
// and the ratio. read: every file through one buffer, as cat does; copy: one behind the other into memory of the
// model's size. Memory of the copy and of the tensors is there before: how quickly a system gives new memory is
// another matter.
#include <ATen/ATen.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <functional>

#include "viaduct/core/buffer.h"
#include "viaduct/core/file.h"
#include "viaduct/nn/live.h"
#include "viaduct/nn/parameter_chunk.h"

using namespace viaduct;

namespace {

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Through `buffer`, or one behind the other into `all`.
void read_files(const std::vector<Path>& files, const Buffer& buffer, std::byte* all) {
  for (const Path& path : files) {
    const int file = ::open(path.c_str(), O_RDONLY);
    while (true) {
      std::byte* const to = all ? all : buffer.data();
      const ssize_t count = ::read(file, to, buffer.size());
      if (count <= 0) break;
      if (all) all += count;
    }
    ::close(file);
  }
}

// From the disk, not from the kernel's cache.
void forget(const std::vector<Path>& files) {
  for (const Path& path : files) {
    const int file = ::open(path.c_str(), O_RDONLY);
    ::fsync(file);
    ::posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED);
    ::close(file);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    fmt::print(stderr, "usage: load_bench MODEL [TIMES]\n");
    return 2;
  }
  const int times = argc > 2 ? std::atoi(argv[2]) : 5;
  const parallel::Mesh mesh;
  const auto source = nn::open_on_all_ranks(argv[1], mesh);
  const std::vector<Path>& files = source->stored().files;
  uint64_t bytes = 0;
  for (const Path& file : files) bytes += std::filesystem::file_size(file);
  const Buffer buffer(1u << 20), all(bytes + buffer.size());
  std::fill(all.bytes().begin(), all.bytes().end(), std::byte{0});
  const nn::ModelChunks chunks = nn::make_parameter_chunks(*source, mesh);
  for (const at::Tensor& tensor : chunks[0]->parameters()) tensor.detach().zero_();
  for (const bool cold : {false, true}) {
    double read = 1e9, copy = 1e9, load = 1e9;
    for (int i = 0; i < times; ++i) {
      if (cold) forget(files);
      read = std::min(read, seconds([&] { read_files(files, buffer, nullptr); }));
      if (cold) forget(files);
      copy = std::min(copy, seconds([&] { read_files(files, buffer, all.data()); }));
      if (cold) forget(files);
      load = std::min(load, seconds([&] { nn::load_weights(*source, chunks, mesh); }));
    }
    const auto rate = [&](double time) { return static_cast<double>(bytes) / time / 1e9; };
    fmt::print(
        "{}: {:.2f} GB: read {:.3f} s ({:.2f} GB/s), copy {:.3f} s ({:.2f} GB/s), load {:.3f} s ({:.2f} GB/s); "
        "load/read {:.2f}, load/copy {:.2f}, peak memory {} MiB\n",
        cold ? "cold" : "warm", static_cast<double>(bytes) / 1e9, read, rate(read), copy, rate(copy), load,
        rate(load), load / read, load / copy, peak_resident_memory() >> 20);
  }
  return 0;
}
