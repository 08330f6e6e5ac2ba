// One part of a conversion that several runs make together.
#include <algorithm>

#include "viaduct/bridge/conversion_steps.h"
#include "viaduct/bridge/part_staging.h"
#include "viaduct/core/buffer.h"
#include "viaduct/core/error.h"
#include "viaduct/core/hash.h"
#include "viaduct/core/version.h"

namespace viaduct::bridge {

namespace {

constexpr uint64_t kPage = 4096;

Json hash_json(uint64_t hash) { return fmt::format("{:016x}", hash); }

// The bytes in the middle of a file and at its end: trained weights differ everywhere.
uint64_t sample(ByteSource& source, uint32_t file) {
  const Buffer page(kPage);
  Xxh3Stream hash;
  const uint64_t size = source.size(file);
  if (size == 0) return hash.value();
  for (const uint64_t at : {size / 2, size - 1}) {
    const uint64_t begin = at / kPage * kPage, end = std::min(begin + kPage, size);
    const size_t count = source.read(file, begin, page.bytes());
    hash.add({page.data(), static_cast<size_t>(std::min<uint64_t>(count, end - begin))});
  }
  return hash.value();
}

// What all parts must have alike. Times of files are none of it: machines may have copies of the source.
Json agreed_facts(const Conversion& conversion, const Part& part) {
  Json sources = Json::array(), small = Json::array();
  const std::vector<Path> files = files_to_keep(conversion);
  const auto source = open_source(conversion.plan, files);
  for (uint32_t file = 0; file < files.size(); ++file)
    sources.items().push_back(
        Json::array({files[file].filename().string(), static_cast<int64_t>(source->size(file)),
                     hash_json(sample(*source, file))}));
  for (const SmallFile& file : conversion.files)
    small.items().push_back(Json::array({file.name, hash_json(xxh3_64(file.content))}));
  return Json::object({{"version of viaduct", Json(fmt::format("{} ({})", version(), commit()))},
                       {"plan", hash_json(conversion.plan.hash())},
                       {"parts", Json(part.of)},
                       {"source file", std::move(sources)},
                       {"small file", std::move(small)}});
}

// The hashes of the blocks in these files, in the plan's order.
std::vector<uint64_t> hashes_in(const TransferPlan& plan, const std::vector<bool>& files,
                                const std::vector<std::vector<BlockSum>>& sums) {
  std::vector<uint64_t> hashes;
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    if (!files[plan.targets[i].file]) continue;
    for (const BlockSum& sum : sums[i]) hashes.push_back(sum.xxh3);
  }
  return hashes;
}

// The sums of the whole plan, from what the parts have recorded.
std::vector<std::vector<BlockSum>> all_sums(const TransferPlan& plan, int parts, const PartStaging& staging) {
  const std::vector<int> part_of = share_files(plan, parts);
  std::vector<size_t> next(static_cast<size_t>(parts) + 1);
  std::vector<std::vector<BlockSum>> sums(plan.targets.size());
  for (size_t i = 0; i < sums.size(); ++i) {
    const int part = part_of[plan.targets[i].file];
    const std::vector<uint64_t>& hashes = staging.hashes_of(part);
    size_t& at = next[static_cast<size_t>(part)];
    sums[i].resize(plan.targets[i].num_blocks());
    VIADUCT_USER_CHECK(
        at + sums[i].size() <= hashes.size(),
        "the record of part {} in {} has {} hashes, too few for its files. Remove that folder and run "
        "all parts again",
        part, staging.path().string(), hashes.size());
    for (BlockSum& sum : sums[i]) sum = {hashes[at++], 0, true};
  }
  return sums;
}

// Each part has synced its files; all of them are to be seen from here.
void check_files(const Conversion& conversion, const PartStaging& staging, int parts) {
  const std::vector<int> part_of = share_files(conversion.plan, parts);
  for (size_t i = 0; i < part_of.size(); ++i) {
    const formats::TargetFile& file = conversion.plan.target.files[i];
    const Path path = staging.content() / conversion.folder / file.name;
    const auto there = std::filesystem::exists(path) ? std::optional(File::open(path, File::Mode::kRead).size())
                                                     : std::optional<uint64_t>();
    VIADUCT_USER_CHECK(
        there == file.size,
        "{} of part {} {}, {} bytes are wanted. All parts must write to one shared file system; remove "
        "{} and run them again",
        path.string(), part_of[i], there ? fmt::format("has {} bytes", *there) : "is not there", file.size,
        staging.path().string());
  }
}

void complete(const Conversion& conversion, const Part& part, PartStaging& staging) {
  check_trackers(conversion);
  check_files(conversion, staging, part.of);
  write_files(conversion, staging.content(), all_sums(conversion.plan, part.of, staging));
  staging.commit();
}

void make(const Conversion& conversion, const ExecuteOptions& options, PartStaging& staging, ExecuteReport& moved) {
  const std::vector<bool>& files = options.files;
  if (std::find(files.begin(), files.end(), true) != files.end()) {
    if (!staging.resumed()) check_space(conversion, conversion.plan.bytes_to_write(files));
    const Workplace at{staging.path(), staging.content(), staging.journal_name(), staging.scales_name()};
    moved = move_bytes(conversion, at, options);
  }
  staging.add_done(hashes_in(conversion.plan, files, moved.sums));
}

}  // namespace

PartReport share_of(const Conversion& conversion, const Part& part) {
  const std::vector<bool> files = files_of(conversion.plan, part);
  return {part,
          static_cast<uint64_t>(std::count(files.begin(), files.end(), true)),
          conversion.plan.bytes_to_write(files),
          false,
          {}};
}

PartReport run_part(const Conversion& conversion, const RunOptions& options, const ExecuteOptions& execute_options,
                    ExecuteReport& moved) {
  const Part part = *options.part;
  PartReport report = share_of(conversion, part);
  const uint64_t hash = conversion.plan.hash();
  PartStaging staging(conversion.world == World::kMegatron
                          ? StagingPlace::of_iteration(conversion.target, conversion.folder, hash)
                          : StagingPlace::of_folder(conversion.target, hash, true),
                      part, {hash, options.overwrite, options.resume, files_to_keep(conversion)},
                      agreed_facts(conversion, part), options.progress);
  report.was_done = staging.was_done();
  const auto kept = [&](const std::string& what) {
    return fmt::format("{}. What is done is kept in {}: repair the cause and run {} again", what,
                       staging.path().string(), part.text());
  };
  try {
    if (!report.was_done) make(conversion, execute_options, staging, moved);
    if (staging.is_last()) complete(conversion, part, staging);
  } catch (const SystemError& error) {
    throw UserError(kept(error.what()));
  } catch (const RemoteError& error) {
    throw UserError(kept(error.what()));
  } catch (const Interrupted& error) {
    throw Interrupted(fmt::format("{}. What is done is kept in {}: run {} again to go on, or remove that folder",
                                  error.what(), staging.path().string(), part.text()));
  }
  report.missing = staging.missing();
  return report;
}

}  // namespace viaduct::bridge
