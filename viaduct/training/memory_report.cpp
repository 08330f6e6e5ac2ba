#include "viaduct/training/memory_report.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <fmt/ranges.h>

#include <cmath>
#include <map>

#include "viaduct/core/error.h"
#include "viaduct/core/file.h"

namespace viaduct::training {

namespace {

using c10::CachingDeviceAllocator::DeviceStats;

constexpr std::pair<const char*, const char*> kUpstreams[] = {
    {"allocated_bytes.all.current", "mem-allocated-bytes"},
    {"active_bytes.all.current", "mem-active-bytes"},
    {"inactive_split_bytes.all.current", "mem-inactive-bytes"},
    {"reserved_bytes.all.current", "mem-reserved-bytes"},
    {"allocated_bytes.all.peak", "mem-max-allocated-bytes"},
    {"active_bytes.all.peak", "mem-max-active-bytes"},
    {"inactive_split_bytes.all.peak", "mem-max-inactive-bytes"},
    {"reserved_bytes.all.peak", "mem-max-reserved-bytes"},
    {"num_alloc_retries", "mem-alloc-retires"},  // spelt as upstream spells it
    {"allocation.all.current", "mem-allocated-count"},
};
constexpr std::pair<const char*, const char*> kProcess[] = {
    {"resident_bytes.current", "mem-resident-bytes"},
    {"resident_bytes.peak", "mem-max-resident-bytes"},
};

// All that torch counts, by torch.cuda.memory_stats()'s names.
std::map<std::string, double> device_statistics(const DeviceStats& stats) {
  std::map<std::string, double> result{{"num_alloc_retries", stats.num_alloc_retries},
                                       {"num_ooms", stats.num_ooms},
                                       {"num_sync_all_streams", stats.num_sync_all_streams},
                                       {"num_device_alloc", stats.num_device_alloc},
                                       {"num_device_free", stats.num_device_free}};
  const auto add = [&](const std::string& name, const c10::CachingAllocator::StatArray& counts) {
    constexpr const char* kPools[] = {"all", "small_pool", "large_pool"};
    for (size_t pool = 0; pool < std::size(kPools); ++pool) {
      const std::string prefix = name + '.' + kPools[pool] + '.';
      result[prefix + "current"] = static_cast<double>(counts[pool].current);
      result[prefix + "peak"] = static_cast<double>(counts[pool].peak);
      result[prefix + "allocated"] = static_cast<double>(counts[pool].allocated);
      result[prefix + "freed"] = static_cast<double>(counts[pool].freed);
    }
  };
  add("allocation", stats.allocation);
  add("segment", stats.segment);
  add("active", stats.active);
  add("inactive_split", stats.inactive_split);
  add("allocated_bytes", stats.allocated_bytes);
  add("reserved_bytes", stats.reserved_bytes);
  add("active_bytes", stats.active_bytes);
  add("inactive_split_bytes", stats.inactive_split_bytes);
  add("requested_bytes", stats.requested_bytes);
  return result;
}

std::map<std::string, double> statistics(c10::Device device) {
  if (device.is_cpu())
    return {{"resident_bytes.current", static_cast<double>(resident_memory())},
            {"resident_bytes.peak", static_cast<double>(peak_resident_memory())}};
  return device_statistics(c10::getDeviceAllocator(device.type())->getDeviceStats(device.index()));
}

}  // namespace

MemoryReport::MemoryReport(const config::Yaml& memory_keys, c10::Device device) : device_(device) {
  const bool own = memory_keys.is_mapping() && !memory_keys.members().empty();
  VIADUCT_USER_CHECK(own || memory_keys.is_null() || memory_keys.is_mapping(),
                     "logger.memory_keys: a mapping of torch's names to the log's is expected");
  if (device.is_cpu()) {
    for (const auto& [statistic, name] : kProcess) entries_.push_back({statistic, name});
  } else if (!own) {
    for (const auto& [statistic, name] : kUpstreams) entries_.push_back({statistic, name});
  }
  if (!own) return;
  // Whether a name is torch's is known without a device.
  const std::map<std::string, double> known = device_statistics({});
  for (const auto& [statistic, name] : memory_keys.members()) {
    const std::string key = statistic.as_string();
    VIADUCT_USER_CHECK(
        known.contains(key),
        "logger.memory_keys: '{}' is none of torch.cuda.memory_stats(): num_alloc_retries, num_ooms, or "
        "allocation, segment, active, inactive_split, allocated_bytes, reserved_bytes, active_bytes, "
        "inactive_split_bytes, requested_bytes, each with .all, .small_pool or .large_pool, and "
        ".current, .peak, .allocated or .freed",
        key);
    if (!device.is_cpu()) entries_.push_back({key, name.as_string()});
  }
}

std::vector<std::pair<std::string, double>> MemoryReport::largest(const parallel::Group& world) const {
  const std::map<std::string, double> here = statistics(device_);
  std::vector<double> values;
  for (const Entry& entry : entries_) values.push_back(here.at(entry.statistic));
  at::Tensor all = at::tensor(values, at::kDouble).to(device_);
  world.all_reduce(all, parallel::Reduce::kMax);
  all = all.cpu();
  std::vector<std::pair<std::string, double>> result;
  for (size_t i = 0; i < entries_.size(); ++i) {
    double value = all[static_cast<int64_t>(i)].item<double>();
    if (entries_[i].statistic.find("bytes") != std::string::npos && value > 0) {
      const double digits = std::pow(10.0, 4 - std::floor(std::log10(value / 1e9)));
      value = std::round(value / 1e9 * digits) / digits;
    }
    result.emplace_back(entries_[i].name, value);
  }
  return result;
}

}  // namespace viaduct::training
