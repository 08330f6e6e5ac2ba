// Training checkpoints of Megatron-LM (fixtures/torch_training), each in two forms of the same moment.
#pragma once

#include <utility>
#include <vector>

#include "tests/model/golden_dir.h"
#include "viaduct/bridge/checkpoint.h"
#include "viaduct/formats/iteration_folder.h"
#include "viaduct/formats/torch_dist.h"
#include "viaduct/training/bucket_form.h"
#include "viaduct/training/mp_rank_form.h"

namespace viaduct::test {

/// Tensors in files, from a list.
class ListedTensors : public formats::TensorReader {
 public:
  ListedTensors(std::vector<Path> files, std::vector<formats::StoredTensor> tensors)
      : files_(std::move(files)), tensors_(std::move(tensors)) {}
  std::string_view format() const override { return "list"; }
  const std::vector<Path>& files() const override { return files_; }
  const std::vector<formats::StoredTensor>& tensors() const override { return tensors_; }

 private:
  std::vector<Path> files_;
  std::vector<formats::StoredTensor> tensors_;
};

/// NAME/megatron's or NAME/expected's iteration.
inline Path torch_training(const std::string& run, const std::string& form) {
  return formats::resolve_iteration(golden_dir() / "torch_training" / run / form);
}

/// What megatron-core wrote in torch_dist.
inline ListedTensors torch_training_expected(const std::string& run, const models::ArchSpec& arch) {
  const auto reader = formats::TorchDistReader::open(torch_training(run, "expected"));
  std::vector<formats::StoredTensor> tensors = reader->tensors();
  if (training::has_buckets(*reader)) {
    std::erase_if(tensors, [](const formats::StoredTensor& t) { return t.name.starts_with("optimizer."); });
    const formats::PickleValue* args = reader->common_state().find("args");
    const topology::Parallelism sizes =
        training::bucket_layout(reader->folder(), args ? *args : formats::PickleValue());
    for (formats::StoredTensor& tensor :
         training::without_buckets(*reader, arch, models::layer_keys_for(arch), sizes))
      tensors.push_back(std::move(tensor));
  }
  return {reader->files(), std::move(tensors)};
}

}  // namespace viaduct::test
