// Cached indexes: files that megatron-core and Viaduct read from each other.
#pragma once

#include <string>
#include <string_view>

#include "viaduct/core/file.h"
#include "viaduct/core/json.h"

namespace viaduct::data {

/// What a dataset is, as Python's json.dumps(indent=4) writes it: the text that its cached indexes are named by.
std::string description_text(const Json& unique_identifiers);

/// The files of one dataset: FOLDER/MD5-CLASS-SPLIT-*, where MD5 is that of its description.
class IndexCache {
 public:
  /// `dataset_class` and `split` are parts of the names.
  IndexCache(Path folder, std::string description, std::string_view dataset_class, std::string_view split);

  /// FOLDER/MD5-CLASS-SPLIT-`what`.npy
  Path array(std::string_view what) const { return file(std::string(what) + ".npy"); }
  /// True when the description and these arrays are there. UserError when the description is another one.
  bool has(std::initializer_list<std::string_view> arrays) const;
  /// Makes the folder; UserError that says how to choose another when that cannot be done.
  void make_folder() const;
  /// Writes the description: the last file, so that a cache is whole when it is there.
  void write_description() const;
  /// The folder.
  const Path& folder() const { return folder_; }

 private:
  Path file(std::string_view suffix) const { return folder_ / (base_ + std::string(suffix)); }

  Path folder_;
  std::string description_, base_;
};

}  // namespace viaduct::data
