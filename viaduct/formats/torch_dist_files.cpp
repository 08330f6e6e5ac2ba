#include "viaduct/formats/torch_dist_files.h"

#include <cstring>

#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/torch_file.h"

namespace viaduct::formats {

namespace {

template <class T>
PickleValue scalar(DType dtype, T value) {
  PickleTensor tensor{dtype, {}, std::string(sizeof value, '\0')};
  std::memcpy(tensor.bytes.data(), &value, sizeof value);
  return tensor;
}

// What torch itself puts there for this content.
constexpr std::string_view kEmptyStateId = "1572819951185464302600052901139531655234";

PickleValue content_metadata() {
  return PickleValue::dict({{"singleton_local_shards", false}, {"chained_optim_avoid_prefix", true}});
}

}  // namespace

std::string common_state_file(int64_t iteration) {
  return write_torch_file(
      PickleValue::dict(
          {{"checkpoint_version", 3.0}, {"iteration", iteration}, {"content_metadata", content_metadata()}}),
      "common");
}

std::string common_state_file(int64_t iteration, const PickleValue& args) {
  return write_torch_file(PickleValue::dict({{"args", args},
                                             {"checkpoint_version", 3.0},
                                             {"iteration", iteration},
                                             {"num_floating_point_operations_so_far", 0},
                                             {"content_metadata", content_metadata()}}),
                          "common");
}

std::string torch_dist_metadata_json() {
  return R"({"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", )"
         R"("common_backend_version": 1})";
}

std::string train_state_file(const TrainState& state) {
  return write_torch_file(
      PickleValue::dict(
          {{"step", scalar(DType::kI64, state.step)},
           {"consumed_train_samples", scalar(DType::kI64, state.consumed_train_samples)},
           {"skipped_train_samples", scalar(DType::kI64, state.skipped_train_samples)},
           {"consumed_valid_samples", scalar(DType::kI64, state.consumed_valid_samples)},
           {"floating_point_operations_so_far", scalar(DType::kF32, state.floating_point_operations_so_far)},
           {"do_train", scalar(DType::kBool, state.do_train)},
           {"do_valid", scalar(DType::kBool, state.do_valid)},
           {"do_test", scalar(DType::kBool, state.do_test)}}),
      "train_state");
}

std::string train_state_file(int64_t step) {
  TrainState state;
  state.step = step;
  return train_state_file(state);
}

SharedBytes empty_extra_state() {
  static const SharedBytes kPayload(
      write_torch_file(PickleValue::list({PickleTensor{DType::kU8, {0}, {}}}), "archive", kEmptyStateId));
  return kPayload;
}

}  // namespace viaduct::formats
