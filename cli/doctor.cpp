// viaduct doctor: what this machine and disk offer, and whether something is missing.
#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <thread>

#include "cli/command.h"
#include "cli/options.h"
#include "viaduct/core/error.h"
#include "viaduct/core/strings.h"
#include "viaduct/core/version.h"
#include "viaduct/models/registry.h"

namespace viaduct::cli {

namespace {

struct DoctorOptions {
  std::string folder = ".";
  bool json = false;
};

struct Disk {
  bool writable = false;
  std::string problem;
  bool direct = false;
  double write_rate = 0;  // bytes a second, fsync included
  double read_rate = 0;
};

// A line of /proc/meminfo in bytes, 0 when it is not there.
uint64_t memory_info(std::string_view key) {
  std::ifstream file("/proc/meminfo");
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with(key)) return std::strtoull(line.c_str() + key.size(), nullptr, 10) * 1024;
  return 0;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Writes and reads 64 MiB, past the cache where the file system lets us.
Disk try_disk(const Path& folder) {
  constexpr size_t kBlock = 8u << 20;
  constexpr int kBlocks = 8;
  Disk disk;
  const Path path = folder / fmt::format(".viaduct-doctor-{}", ::getpid());
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  const std::unique_ptr<std::byte, Free> buffer(static_cast<std::byte*>(std::aligned_alloc(4096, kBlock)));
  std::memset(buffer.get(), 0x5a, kBlock);
  const std::span block(buffer.get(), kBlock);
  try {
    {
      const File file = File::open(path, File::Mode::kWriteDirect);
      disk.direct = file.is_direct();
      const auto start = std::chrono::steady_clock::now();
      for (int i = 0; i < kBlocks; ++i) file.write(static_cast<uint64_t>(i) * kBlock, block);
      file.sync();
      disk.write_rate = kBlocks * kBlock / seconds_since(start);
    }
    const File file = File::open(path, File::Mode::kReadDirect);
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kBlocks; ++i) file.read(static_cast<uint64_t>(i) * kBlock, block);
    disk.read_rate = kBlocks * kBlock / seconds_since(start);
    disk.writable = true;
  } catch (const UserError& error) {
    disk.problem = error.what();
  }
  std::error_code ignored;
  std::filesystem::remove(path, ignored);
  return disk;
}

int run_doctor(const DoctorOptions& options) {
  VIADUCT_USER_CHECK(std::filesystem::is_directory(options.folder), "{} is not a folder", options.folder);
  const Disk disk = try_disk(options.folder);
  const uint64_t free = free_space(options.folder);
  const uint64_t total = memory_info("MemTotal:"), available = memory_info("MemAvailable:");
  const unsigned processors = std::thread::hardware_concurrency();
  struct utsname system {};
  ::uname(&system);
  const std::string folder = std::filesystem::absolute(options.folder).lexically_normal().string();
  constexpr uint64_t kNeededMemory = 256u << 20;
  const bool good = disk.writable && available >= kNeededMemory;
  if (options.json) {
    Json json = Json::object();
    json.set("good", good);
    json.set("version", version());
    json.set("commit", commit());
    json.set("system", fmt::format("{} {} {}", system.sysname, system.release, system.machine));
    json.set("processors", Json(static_cast<int64_t>(processors)));
    json.set("memory_total", json_count(total));
    json.set("memory_available", json_count(available));
    json.set("families", json_count(models::families().size()));
    json.set("disk", Json::object({{"folder", Json(folder)},
                                   {"free_space", json_count(free)},
                                   {"writable", Json(disk.writable)},
                                   {"direct_io", Json(disk.direct)},
                                   {"write_bytes_per_second", Json(disk.write_rate)},
                                   {"read_bytes_per_second", Json(disk.read_rate)}}));
    print_json(json);
    return good ? kDone : kUserMistake;
  }
  const auto line = [](std::string_view label, const std::string& value) {
    fmt::print("  {:<11} {}\n", label, value);
  };
  fmt::print("viaduct {} ({})\n", version(), commit());
  line("system", fmt::format("{} {} {}", system.sysname, system.release, system.machine));
  line("processors", std::to_string(processors));
  line("memory", fmt::format("{} available of {} (a conversion needs under 256 MiB){}", human_bytes(available),
                             human_bytes(total), available < kNeededMemory ? ": TOO LITTLE" : ""));
  line("families", fmt::format("{} (viaduct list-models)", models::families().size()));
  line("folder", folder);
  line("free space", human_bytes(free));
  if (disk.writable) {
    line("direct IO", disk.direct ? "yes" : "no (the file system has none: the page cache is used)");
    line("disk", fmt::format("writes {:.2f} GB/s, reads {:.2f} GB/s (64 MiB, one at a time)",
                             disk.write_rate * 1e-9, disk.read_rate * 1e-9));
  } else {
    line("disk", "NOT WRITABLE: " + disk.problem);
  }
  line("needs", "no GPU, no Python, no torch");
  return good ? kDone : kUserMistake;
}

}  // namespace

void add_doctor(CLI::App& program, Action& action) {
  add_command<DoctorOptions>(
      program, action, "doctor", "Show what this machine and disk offer",
      [](CLI::App& command, DoctorOptions& options) {
        command.add_option("DIR", options.folder, "A folder on the disk to look at (default: the current one)");
        command.add_flag("--json", options.json, "Print one JSON object instead of text");
      },
      run_doctor);
}

}  // namespace viaduct::cli
