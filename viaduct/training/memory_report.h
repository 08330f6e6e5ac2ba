// How much memory a run takes, by upstream's names.
#pragma once

#include <c10/core/Device.h>

#include <string>
#include <utility>
#include <vector>

#include "viaduct/config/yaml.h"
#include "viaduct/parallel/group.h"

namespace viaduct::training {

/// Statistics of torch's memory of a device, by the names that the log gives them. Built once, asked often.
class MemoryReport {
 public:
  /// `memory_keys`: logger.memory_keys, torch's names ("allocated_bytes.all.current", "num_alloc_retries") to the
  /// log's; null or empty: upstream's own choice. On the CPU, where torch keeps no account, the process's resident
  /// memory. UserError that lists torch's names for one that is none of them.
  MemoryReport(const config::Yaml& memory_keys, c10::Device device);

  /// By name, in the order of the names; bytes as gigabytes (1e9), to five digits. Of every statistic the largest
  /// of all ranks: which stage has it depends on the layout. Collective.
  std::vector<std::pair<std::string, double>> largest(const parallel::Group& world) const;

 private:
  struct Entry {
    std::string statistic;  // torch's name
    std::string name;       // the log's
  };
  std::vector<Entry> entries_;
  c10::Device device_;
};

}  // namespace viaduct::training
