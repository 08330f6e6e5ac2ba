// Files of a TargetLayout with the tensors' bytes filled in, as bridge/ does it for real ones; and the proof that
// the layout says every byte once.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "viaduct/formats/tensor_io.h"

namespace viaduct::formats {

using BytesOf = std::function<std::vector<std::byte>(const StoredTensor&)>;

/// The content of each file. A byte that is written twice or not at all fails the test.
inline std::vector<std::string> fill(const TargetLayout& layout, const BytesOf& bytes_of) {
  struct Run {
    uint32_t file;
    uint64_t begin;
    std::string bytes;
  };
  std::vector<Run> runs;
  for (const Literal& literal : layout.literals)
    runs.push_back({literal.file, literal.offset, std::string(literal.bytes.view())});
  for (const StoredTensor& tensor : layout.tensors) {
    const std::vector<std::byte> bytes = bytes_of(tensor);
    EXPECT_EQ(tensor.chunks.size(), 1u) << tensor.name;
    EXPECT_EQ(bytes.size(), static_cast<size_t>(num_bytes(tensor.dtype, num_elements(tensor.shape))))
        << tensor.name;
    if (!bytes.empty())
      runs.push_back({tensor.chunks.at(0).file, tensor.chunks.at(0).byte_offset,
                      std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
  }
  std::stable_sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) {
    return std::tie(a.file, a.begin) < std::tie(b.file, b.begin);
  });
  std::vector<std::string> files(layout.files.size());
  for (const Run& run : runs) {
    EXPECT_EQ(run.begin, files.at(run.file).size()) << layout.files.at(run.file).name;
    files.at(run.file) += run.bytes;
  }
  for (size_t i = 0; i < files.size(); ++i)
    EXPECT_EQ(files[i].size(), layout.files[i].size) << layout.files[i].name;
  return files;
}

/// Bytes that follow from the tensor's name, so that no two tensors are alike.
inline std::vector<std::byte> made_up_bytes(const StoredTensor& tensor) {
  std::vector<std::byte> bytes(static_cast<size_t>(num_bytes(tensor.dtype, num_elements(tensor.shape))));
  uint32_t state = static_cast<uint32_t>(std::hash<std::string>{}(tensor.name)) | 1;
  for (std::byte& b : bytes) {
    state = state * 1664525 + 1013904223;
    b = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

inline StoredTensor tensor_of(std::string name, DType dtype, Shape shape) {
  StoredTensor tensor;
  tensor.name = std::move(name);
  tensor.dtype = dtype;
  tensor.shape = shape;
  return tensor;
}

}  // namespace viaduct::formats
