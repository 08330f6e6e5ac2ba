#include "viaduct/parallel/mesh.h"

namespace viaduct::parallel {

Mesh::Mesh() : place_(topology::RankGrid(sizes_).coordinates(0)) {}

}  // namespace viaduct::parallel
