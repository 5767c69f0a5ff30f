//! A device tree that can be changed: read with `flat_device_tree`, written with `vm-fdt`.

use anyhow::{Context, Result, anyhow};
use flat_device_tree::Fdt;
use flat_device_tree::node::FdtNode;
use vm_fdt::{FdtReserveEntry, FdtWriter};

/// A node: its name, its properties and its children, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    /// The name with its unit address; empty for the root.
    pub(crate) name: String,
    /// Names and values.
    pub(crate) properties: Vec<(String, Vec<u8>)>,
    /// The nodes below.
    pub(crate) children: Vec<Node>,
}

impl Node {
    /// An empty node.
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Sets a property, in place when it is there already.
    pub(crate) fn set(&mut self, name: &str, value: impl Into<Vec<u8>>) -> &mut Self {
        let value = value.into();
        match self.properties.iter_mut().find(|(n, _)| n == name) {
            Some(property) => property.1 = value,
            None => self.properties.push((name.to_owned(), value)),
        }
        self
    }

    /// Sets an empty property.
    pub(crate) fn flag(&mut self, name: &str) -> &mut Self {
        self.set(name, [])
    }

    /// Sets a property to strings, each with its NUL.
    pub(crate) fn strings(&mut self, name: &str, values: &[&str]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes().chain([0])).collect();
        self.set(name, bytes)
    }

    /// Sets a property to 32-bit cells.
    pub(crate) fn cells(&mut self, name: &str, values: &[u32]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
        self.set(name, bytes)
    }

    /// Sets a property to 64-bit numbers, two cells each.
    pub(crate) fn longs(&mut self, name: &str, values: &[u64]) -> &mut Self {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
        self.set(name, bytes)
    }

    /// The value of a property.
    #[cfg(test)]
    pub(crate) fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_slice())
    }

    /// The child of that name, made when it is missing.
    pub(crate) fn child_mut(&mut self, name: &str) -> &mut Self {
        let at = self.children.iter().position(|c| c.name == name).unwrap_or_else(|| {
            self.children.push(Self::new(name));
            self.children.len() - 1
        });
        &mut self.children[at]
    }
}

/// A whole tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    /// The root node.
    pub(crate) root: Node,
    /// Memory reservations: address and size.
    pub(crate) reserved: Vec<(u64, u64)>,
    /// The boot CPU's identifier, as the header has it.
    pub(crate) boot_cpu: u32,
}

fn copy(node: FdtNode<'_, '_>, depth: usize) -> Result<Node> {
    if depth > 32 {
        return Err(anyhow!("the device tree is nested too deeply"));
    }
    let name = if depth == 0 { "" } else { node.name };
    let mut copied = Node::new(name);
    copied
        .properties
        .extend(node.properties().map(|p| (p.name.to_owned(), p.value.to_vec())));
    for child in node.children() {
        copied.children.push(copy(child, depth + 1)?);
    }
    Ok(copied)
}

fn write(node: &Node, writer: &mut FdtWriter) -> Result<(), vm_fdt::Error> {
    let token = writer.begin_node(&node.name)?;
    for (name, value) in &node.properties {
        writer.property(name, value)?;
    }
    for child in &node.children {
        write(child, writer)?;
    }
    writer.end_node(token)
}

impl Tree {
    /// Reads a flattened tree.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let fdt = Fdt::new(bytes).map_err(|e| anyhow!("not a device tree: {e:?}"))?;
        let root = fdt.find_node("/").context("the device tree has no root node")?;
        let boot_cpu = bytes.get(28..32).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes);
        let reserved = fdt
            .memory_reservations()
            .map(|r| (r.address() as usize as u64, r.size() as u64))
            .collect();
        Ok(Self {
            root: copy(root, 0)?,
            reserved,
            boot_cpu,
        })
    }

    /// Writes the tree flat.
    pub(crate) fn flatten(&self) -> Result<Vec<u8>> {
        let entries: Result<Vec<_>, _> = self.reserved.iter().map(|&(a, s)| FdtReserveEntry::new(a, s)).collect();
        let write_all = || {
            let mut writer = FdtWriter::new_with_mem_reserv(&entries?)?;
            writer.set_boot_cpuid_phys(self.boot_cpu);
            write(&self.root, &mut writer)?;
            writer.finish()
        };
        write_all().map_err(|e: vm_fdt::Error| anyhow!("cannot write the device tree: {e}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Tree {
        let mut root = Node::new("");
        root.cells("#address-cells", &[2])
            .cells("#size-cells", &[2])
            .strings("compatible", &["linux,dummy-virt"]);
        root.child_mut("intc@8000000")
            .cells("phandle", &[0x8002])
            .cells("#interrupt-cells", &[3]);
        root.child_mut("cpus").child_mut("cpu@0").cells("reg", &[0]);
        root.child_mut("chosen").strings("stdout-path", &["/pl011@9000000"]);
        Tree {
            root,
            reserved: vec![(0x4000_0000, 0x1000)],
            boot_cpu: 3,
        }
    }

    #[test]
    fn a_tree_survives_being_written_and_read() {
        let tree = sample();
        let bytes = tree.flatten().expect("written");
        assert_eq!(Tree::parse(&bytes).expect("read"), tree);
    }

    #[test]
    fn properties_are_replaced_in_place() {
        let mut node = Node::new("chosen");
        node.strings("a", &["x"]).flag("b").strings("a", &["y", "z"]);
        assert_eq!(
            node.properties,
            [("a".to_owned(), b"y\0z\0".to_vec()), ("b".to_owned(), Vec::new())]
        );
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(Tree::parse(b"").is_err());
        assert!(Tree::parse(&[0; 64]).is_err());
    }
}
