// torch.save files in their zip form: .pt, .bin, and the entries of torch_dist checkpoints.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "viaduct/formats/pickle_value.h"
#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

/// How a file is read.
struct TorchFileOptions {
  /// Keep classes that are not known by name instead of refusing them: Megatron's `args` in model_optim_rng.pt.
  /// Nothing is run either way.
  bool unknown_classes = false;
};

/// A file with a state dict: dicts in dicts (and lists) give names joined by '.', what is no tensor is passed over.
/// UserError for the legacy form from before torch 1.6, for compressed entries, for a pickle that names other
/// classes than state dicts need, and for a tensor that is hidden inside another object.
std::unique_ptr<TensorReader> open_torch_file(const Path& path, const TorchFileOptions& options = {});

/// What of a file with a large dict is wanted: tensors of some of its keys, plain values of others.
struct TorchFileParts {
  std::vector<StoredTensor> tensors;    // "model.decoder.layers.0...": the key, then as open_torch_file names them
  PickleValue values;                   // a dict: the wanted values that are there
  std::vector<std::string> other_keys;  // of the outermost dict, not looked into
};

/// Tensors of the keys that begin with `tensors` (none: no tensors), values of the keys `values`. Of a key that is
/// among both, tensors with more than one element are None in its value. Classes that are not known are kept as
/// names. UserError as open_torch_file, and when the file holds no dict.
TorchFileParts read_torch_parts(const Path& path, std::optional<std::string_view> tensors,
                                std::span<const std::string_view> values);

/// True when `path` is a file that begins as a zip archive or as torch's legacy form.
bool is_torch_file(const Path& path);

/// A Hugging Face folder with pytorch_model.bin, or pytorch_model.bin.index.json and the files it names.
std::unique_ptr<TensorReader> open_torch_folder(const Path& folder);
/// Does the folder hold such files?
bool is_torch_folder(const Path& folder);

/// The whole object of a small file, tensors with their elements. Classes that are not known stay kObject.
/// UserError when its tensors have more than 64 MiB, or as open_torch_file.
PickleValue read_torch_object(const Path& path);
/// Likewise of an archive in memory; `origin` names it in messages.
PickleValue read_torch_object(std::span<const std::byte> archive, std::string_view origin);

/// The bytes of torch.save(value) with the archive's root called `root_name` ("archive" in a stream, else the
/// file's stem). For small values: everything is made in memory. `serialization_id`: 40 digits; empty: made from
/// the content. Everything but these digits (and their CRC) is what torch.save writes.
std::string write_torch_file(const PickleValue& value, std::string_view root_name,
                             std::string_view serialization_id = {});

}  // namespace viaduct::formats
