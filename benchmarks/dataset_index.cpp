// Builds the indexes of a GPT dataset and says how long it took, for end_to_end/dataset_index.py:
//   dataset_index PREFIX CACHE SEQUENCE_LENGTH NUM_SAMPLES
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <string>

#include "viaduct/core/file.h"
#include "viaduct/data/build.h"

int main(int argc, char** argv) {
  using namespace viaduct;
  if (argc != 5) return 2;
  try {
    data::GPTDatasetConfig config;
    config.sequence_length = std::stoll(argv[3]);
    config.blend = data::Blend{{argv[1]}, std::nullopt};
    config.split = "1,0,0";
    config.path_to_cache = argv[2];
    const uint64_t before = peak_resident_memory();
    const auto start = std::chrono::steady_clock::now();
    const auto datasets = data::build_gpt_datasets(config, {std::stoll(argv[4]), 0, 0});
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    fmt::print("{{\"samples\": {}, \"seconds\": {:.3f}, \"peak\": {}, \"before\": {}}}\n",
               datasets[0].at(0)->size(), took.count(), peak_resident_memory(), before);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return 0;
}
