//! The parts of an image that all front ends share.

use super::created::CreatedName;
use super::listener::Listener;
use crate::image::format::table;

table! {
    Listener { 1 socket, 2 key, 3 again }
    CreatedName { 1 kind, 2 device, 3 inode }
}
